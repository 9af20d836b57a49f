/** The addon's localhost. Runs in a network namespace of its own, whose loopback is up; the output is TAP. */
import { once } from 'node:events'
import { connect } from 'node:net'
import t from 'tap'
import { createNativeOs } from '#shared/os/native.ts'
import { localhostContract } from '../unit/os-contract.ts'

await localhostContract(t, createNativeOs(), {
  netnsPath: '/proc/self/ns/net',
  async connect(port, host) {
    const socket = connect({ port, host, allowHalfOpen: true })
    await once(socket, 'connect')
    return socket
  },
})

await t.test('a path that is no namespace is refused by name', async (t) => {
  const { localhost } = createNativeOs()
  await t.rejects(localhost.listen('/nowhere', () => {}), { code: 'ENOENT', message: /listen on the localhost of \/nowhere/ })
  await t.rejects(localhost.listen('/dev/null', () => {}), { code: 'EINVAL', syscall: 'setns' })
})

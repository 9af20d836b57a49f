import { writeSync } from 'node:fs'
import t from 'tap'
import { createFakeOs } from '#shared/os/fake.ts'
import { osContract } from './os-contract.ts'

await t.test('the fake keeps the contract', async (t) => {
  await using os = createFakeOs({ cid: 7 })
  let nextPid = 100
  await osContract(t, {
    os,
    mayMount: true,
    mountTarget: '/anywhere',
    vsockCid: 7,
    localhost: { netnsPath: '/run/netns/pod', connect: (port) => os.localhost.connect('/run/netns/pod', port) },
    async sendTerminal(path, output) {
      const { readFd, writeFd } = os.descriptors.pipe()
      writeSync(writeFd, output)
      os.descriptors.close(writeFd)
      os.sendConsole(path, readFd)
    },
    async startProcess() {
      const pid = nextPid++
      os.start(pid)
      return { pid, end: () => os.exit(pid) }
    },
  })
  t.equal(os.mounted.length, 0)
  t.same([...os.sizes.values()], [[132, 50]])
})

await t.test('machines on one network see each other’s CIDs', async (t) => {
  await using host = createFakeOs({ cid: 2 })
  await using guest = createFakeOs({ cid: 5, network: host.network })
  const peers: number[] = []
  const met = new Promise<void>((resolve) => {
    void host.vsock.listen(1025, (socket, peer) => {
      peers.push(peer.cid)
      socket.end()
      resolve()
    })
  })
  const socket = await guest.vsock.connect({ cid: 2, port: 1025 })
  await met
  socket.destroy()
  t.same(peers, [5])
})

/** The addon against this machine's kernel. Its vsock is tested in a VM (os-vm.test.ts): a machine need not have one. */
import { execa } from 'execa'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import t from 'tap'
import { createNativeOs } from '#shared/os/native.ts'
import { osContract } from './os-contract.ts'

const support = (file: string) => resolve(import.meta.dirname, '../support', file)

function missingForNetns(): string | false {
  if (process.getuid?.() !== 0) return 'lacks: root'
  return existsSync('/sbin/ip') ? false : 'lacks: iproute2'
}

await execa('make', ['os-addon', 'os-test-tools'])

await t.test('the kernel keeps the contract', async (t) => {
  await osContract(t, {
    os: createNativeOs(),
    mayMount: false,
    mountTarget: '',
    async sendTerminal(path, output) {
      await execa('build/os/send-terminal', [path, output])
    },
    async startProcess() {
      const child = spawn('sleep', ['600'], { stdio: 'ignore' })
      await once(child, 'spawn')
      if (child.pid === undefined) throw new Error('sleep did not start')
      return { pid: child.pid, end: () => child.kill('SIGKILL') }
    },
  })
})

await t.test('a child has no signal ignored or blocked', async (t) => {
  const args = ['-Eq', '^Sig(Blk|Ign):[[:space:]]+0*[1-9a-f]', '/proc/self/status']
  const { ended } = createNativeOs().processes.spawn({ file: '/usr/bin/grep', args, env: {}, stdio: undefined })
  t.same(await ended, { exitCode: 1, signal: undefined }, 'no such line')
})

await t.test('mounts, in a mount namespace of their own', async (t) => {
  const { stdout } = await execa('unshare', ['--mount', '--propagation', 'private', process.execPath, support('os-mounts.ts')])
  t.equal(stdout, 'mounts ok')
})

await t.test('localhost, in a network namespace of its own', { skip: missingForNetns() }, async (t) => {
  const script = 'ip link set lo up && exec "$0" "$1"'
  const { all, exitCode } = await execa('unshare', ['--net', 'sh', '-c', script, process.execPath, support('os-localhost.ts')], { all: true, reject: false })
  t.equal(exitCode, 0, 'its own tests passed')
  if (exitCode !== 0) t.comment(all)
})

await t.test('a worker that ends with an open watch leaves nothing behind', async (t) => {
  const { exitCode } = await execa(process.execPath, [support('os-worker.ts')])
  t.equal(exitCode, 0)
})

await t.test('a missing addon says what to do', async (t) => {
  const env = { KUASAR_OS_ADDON: '/nowhere/os.node' }
  const script = `import('#shared/os/native.ts').then(({ createNativeOs }) => createNativeOs().descriptors.pipe())`
  const { stderr, exitCode } = await execa(process.execPath, ['--input-type=module', '-e', script], { env, reject: false })
  t.not(exitCode, 0)
  t.match(stderr, /the native addon is not at \/nowhere\/os\.node; correct or unset KUASAR_OS_ADDON/)
})

/** The addon against this machine's kernel. Its vsock is tested in a VM (os-vm.test.ts): a machine need not have one. */
import { execa } from 'execa'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, fstatSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { buffer } from 'node:stream/consumers'
import t from 'tap'
import { addon } from '#shared/os/addon.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { osContract } from './os-contract.ts'

const support = (file: string) => resolve(import.meta.dirname, '../support', file)

function missingForNetns(): string | false {
  if (process.getuid?.() !== 0) return 'lacks: root'
  return existsSync('/sbin/ip') ? false : 'lacks: iproute2'
}

/** Plays the OCI runtime. */
const sendTerminal = async (path: string, output: string) => void (await execa('build/os/send-terminal', [path, output]))

await execa('make', ['os-addon', 'os-test-tools'])

await t.test('the kernel keeps the contract', async (t) => {
  await osContract(t, {
    os: createNativeOs(),
    mayMount: false,
    mountTarget: '',
    sendTerminal,
    async startProcess() {
      const child = spawn('sleep', ['600'], { stdio: 'ignore' })
      await once(child, 'spawn')
      if (child.pid === undefined) throw new Error('sleep did not start')
      return { pid: child.pid, end: () => child.kill('SIGKILL') }
    },
  })
})

await t.test('what cannot be polled is no stream, and stays the caller’s', async (t) => {
  for (const [path, flags, mode] of [['/etc/hostname', 'r', 'read'], ['/dev/null', 'r+', 'duplex']] as const) {
    const fd = openSync(path, flags)
    t.throws(() => createNativeOs().descriptors.stream(fd, mode), { name: 'OsError', code: 'EPERM' }, path)
    closeSync(fd)
  }
})

await t.test('input for a terminal that has hung up takes none of its output along', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kuasar-hang-up-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const { descriptors, terminals } = createNativeOs()
  const path = join(directory, 'console.sock')
  await using listener = await terminals.listenConsole(path)
  const [master] = await Promise.all([listener.receive(), sendTerminal(path, 'last words')])
  const stream = descriptors.stream(master, 'duplex')
  // Told once of the words, and once more of the end behind them.
  let told = 0
  await new Promise<void>((resolve) => stream.on('readable', () => ++told === 2 && resolve()))
  t.equal(stream.readableLength, 'last words'.length)
  stream.write('one')
  stream.cork()
  for (const input of ['two', 'three']) stream.write(input)
  stream.uncork()
  const closed = once(stream, 'close')
  t.equal(String(await buffer(stream)), 'last words')
  await closed
})

await t.test('a child that cannot be watched does not run on', async (t) => {
  const { all, exitCode } = await execa('sh', ['-c', 'ulimit -n 100 && exec "$0" "$1"', process.execPath, support('os-spawn-full.ts')], { all: true, reject: false })
  t.equal(exitCode, 0, 'its own assertions held')
  if (exitCode !== 0) t.comment(all)
})

await t.test('a watch that does not start leaves no descriptor', async (t) => {
  let opened = -1
  const { processes } = createNativeOs(() => ({
    ...addon(),
    pidfdOpen: (pid) => (opened = addon().pidfdOpen(pid)),
    pollStart() {
      throw new Error('no memory')
    },
  }))
  t.throws(() => processes.watch(process.pid, () => {}), { message: 'no memory' })
  t.ok(opened >= 0)
  t.throws(() => fstatSync(opened), { code: 'EBADF' })
})

await t.test('vsock errors', async (t) => {
  await t.rejects(createNativeOs().vsock.connect({ cid: 77, port: 1 }, { timeoutMs: 1.5 }), { name: 'OsError' }, 'a limit that is no whole number')
  const script = `import('#shared/os/native.ts').then(({ createNativeOs }) => createNativeOs().vsock.localCid())`
  const hidden = ['--mount', '--propagation', 'private', 'sh', '-c', 'mount -t tmpfs none /dev && exec "$0" --input-type=module -e "$1"', process.execPath, script]
  const { stderr } = await execa('unshare', hidden, { reject: false })
  t.match(stderr, /OsError: read the local vsock CID: open: No such device \(ENODEV\)/, 'without a device')
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

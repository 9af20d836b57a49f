/** The stub shim, run as containerd runs shims: flags before the verb, the bundle as working directory. */
import { mkdtemp, readdir, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { execa } from 'execa'
import t from 'tap'

/** It goes by the name of each runtime it is installed for. */
const installed = await mkdtemp(join(tmpdir(), 'kuasar-shim-'))
t.teardown(() => rm(installed, { recursive: true }))
const shim = join(installed, 'containerd-shim-kuasar-qemu-v1')
await symlink(resolve(import.meta.dirname, '../../host/shim/containerd-shim-kuasar'), shim)

/** As 2.1.9 was seen to call it. */
const flags = ['-namespace', 'k8s.io', '-address', '/run/containerd/containerd.sock', '-publish-binary', '/usr/bin/containerd']
const task = [...flags, '-id', 'delete', '-bundle', '/run/containerd/io.containerd.runtime.v2.task/k8s.io/start']

const run = (args: string[], cwd = '/') => execa(shim, args, { cwd, reject: false, env: {}, extendEnv: false, input: '' })

await t.test('delete answers the empty DeleteResponse, whatever the flags hold', async (t) => {
  const bundle = await mkdtemp(join(tmpdir(), 'kuasar-bundle-'))
  t.teardown(() => rm(bundle, { recursive: true }))
  for (const args of [[...task, 'delete'], [...task, '-debug', 'delete'], ['--id=start', '-namespace=k8s.io', 'delete'], ['delete']]) {
    const { exitCode, stdout, stderr } = await run(args, bundle)
    t.same({ exitCode, stdout, stderr }, { exitCode: 0, stdout: '', stderr: '' }, args.join(' '))
  }
  t.same(await readdir(bundle), [])
})

await t.test('delete works in a bundle that is gone', async (t) => {
  const bundle = await mkdtemp(join(tmpdir(), 'kuasar-bundle-'))
  const script = `cd ${bundle} && rmdir ${bundle} && exec ${shim} ${task.join(' ')} delete`
  const { exitCode, stdout } = await execa('sh', ['-c', script], { reject: false })
  t.same({ exitCode, stdout }, { exitCode: 0, stdout: '' })
})

/** Of a protobuf message, with less than 128 bytes. */
const field = (number: number, bytes: string) => String.fromCharCode((number << 3) | 2, bytes.length) + bytes

await t.test('-info answers a RuntimeInfo with the features there are', async (t) => {
  const type = 'types.containerd.io/opencontainers/runtime-spec/1/features/Features'
  // An Any in field 4: the type in its field 1, the value in its field 2.
  const features = field(4, field(1, type) + field(2, '{"mountOptions":["rro"]}'))
  for (const args of [['-info'], [...flags, '-info'], ['--info']]) {
    const { exitCode, stdout } = await run(args)
    t.same({ exitCode, stdout }, { exitCode: 0, stdout: features })
  }
})

await t.test('start fails and says what to do', async (t) => {
  const { exitCode, stdout, stderr } = await run([...task, '-debug', 'start'])
  t.equal(exitCode, 1)
  t.equal(stdout, '', 'containerd would take it for an address')
  t.match(stderr, /^containerd-shim-kuasar-qemu-v1 cannot be started: .* set sandboxer /)
})

await t.test('anything else is refused', async (t) => {
  for (const args of [[], ['restart'], ['-id'], ['-bundle', 'delete']]) t.equal((await run(args)).exitCode, 2, args.join(' '))
})

await t.test('a version for people', async (t) => {
  t.match((await run(['-v'])).stdout, /the stub of kuasar/)
})

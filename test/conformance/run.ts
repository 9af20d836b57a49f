/** critest against one runtime handler, in a node with a registry and a network that maps ports. */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { startContainerd } from '#test/node/containerd.ts'
import { startNode, type TestNode } from '#test/node/node.ts'
import { checkout, inside } from '#test/node/paths.ts'
import { startSandboxer } from '#test/node/sandboxer.ts'
import { readReport, type Critest, type Spec, type SpecReport } from './critest.ts'
import { focusOn } from './ginkgo.ts'
import { defaultImage } from './images.ts'

const registryPort = 5000
const certsDir = '/etc/containerd/certs.d'

/** Before `10-node.conflist`, so that containerd takes this one. */
const cniPath = '/etc/cni/net.d/05-conformance.conflist'

/**
 * For one spec, in seconds. A machine that is emulated, and shared, starts a pod in some ten; critest itself waits up
 * to a minute for each change it expects.
 */
const specSecondsMax = 300

/** Everything random in critest comes from this: the order of the specs that run together. */
const seed = 1

export interface Run extends AsyncDisposable {
  readonly versions: Readonly<Record<string, string>>
  /** Runs these specs and answers what became of them; those it did not get to are left out. Several calls may be under way at once. */
  specs(specs: readonly Spec[]): Promise<readonly SpecReport[]>
}

/** Starts what critest needs. It keeps running until disposed of. */
export async function startRun(critest: Critest, handler: string): Promise<Run> {
  const stack = new AsyncDisposableStack()
  try {
    const node = stack.use(await startNode())
    await configure(node)
    await node.start({
      name: 'registry',
      command: 'node',
      args: [`${inside.checkout}/test/conformance/registry.ts`, String(registryPort)],
      ready: async () => (await node.exec('wget', ['-q', '-O', '-', `http://127.0.0.1:${registryPort}/v2/`])).exitCode === 0,
    })
    if (handler !== 'runc') stack.use(await startSandboxer(node))
    stack.use(await startContainerd(node, { registryHosts: certsDir }))
    const versions = await versionsOf(node, handler)
    const undo = stack.move()
    let calls = 0
    return {
      versions,
      specs: (specs) => runSpecs(node, critest, handler, specs, ++calls),
      [Symbol.asyncDispose]: () => undo.disposeAsync(),
    }
  } catch (error) {
    await stack.disposeAsync()
    throw error
  }
}

async function configure(node: TestNode): Promise<void> {
  await mkdir(node.path(`${certsDir}/_default`), { recursive: true })
  const mirror = `[host."http://127.0.0.1:${registryPort}"]\n  capabilities = ["pull", "resolve"]\n`
  await writeFile(node.path(`${certsDir}/_default/hosts.toml`), mirror)
  await writeFile(node.path(cniPath), cniConfig())
  await writeFile(node.path('/etc/critest-images.yaml'), `defaultTestContainerImage: ${defaultImage}\n`)
}

/** A bridge, and the plugin that maps ports of the host to pods. */
function cniConfig(): string {
  const ipam = { type: 'host-local', ranges: [[{ subnet: '10.89.0.0/16' }]], routes: [{ dst: '0.0.0.0/0' }] }
  const bridge = { type: 'bridge', bridge: 'cni0', isGateway: true, ipMasq: false, ipam }
  const portmap = { type: 'portmap', backend: 'nftables', capabilities: { portMappings: true } }
  return JSON.stringify({ cniVersion: '1.0.0', name: 'conformance', plugins: [bridge, portmap] }, null, 2)
}

async function runSpecs(
  node: TestNode,
  critest: Critest,
  handler: string,
  specs: readonly Spec[],
  call: number,
): Promise<readonly SpecReport[]> {
  const name = `critest-${call}`
  const report = `${inside.scratch}/${name}.json`
  const result = await node.exec(`${inside.checkout}/${relative(checkout, critest.path)}`, [
    `--runtime-endpoint=unix://${inside.containerdSocket}`,
    `--runtime-handler=${handler}`,
    '--test-images-file=/etc/critest-images.yaml',
    `--ginkgo.focus=${focusOn(specs)}`,
    `--ginkgo.seed=${seed}`,
    `--ginkgo.timeout=${specs.length * specSecondsMax}s`,
    `--ginkgo.json-report=${report}`,
    '--ginkgo.no-color',
  ])
  await writeFile(join(node.dir, `scratch/logs/${name}.log`), `${result.stdout}${result.stderr}`)
  return readFile(join(node.dir, `scratch/${name}.json`), 'utf8').then(readReport, () => [])
}

async function versionsOf(node: TestNode, handler: string): Promise<Record<string, string>> {
  const first = async (command: string) => (await node.run(command, ['--version'])).split('\n')[0]?.trim() ?? ''
  const containerd = (await first('containerd')).split(' ')[2] ?? ''
  return {
    containerd,
    ...(handler === 'runc' ? { runc: (await first('runc')).replace('runc version ', '') } : {}),
  }
}

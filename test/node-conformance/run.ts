/** The suite against one runtime handler, in a node with a registry, the suite's own API server, and a kubelet. */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { focusOn } from '#test/conformance/ginkgo.ts'
import { startContainerd } from '#test/node/containerd.ts'
import { startNode, type TestNode } from '#test/node/node.ts'
import { inside } from '#test/node/paths.ts'
import { startSandboxer } from '#test/node/sandboxer.ts'
import { bin, kubectlOf, nodeName, prepareKubelet, readyMsMax, startKubelet, token, writeIn } from '../kubernetes/kubelet.ts'
import { everyPodIsA } from './runtime-class.ts'
import { readReport, type Spec, type SpecReport } from './suite.ts'

const registryPort = 5000
const certsDir = '/etc/containerd/certs.d'
const suite = `${bin}/e2e_node.test`
const server = 'https://127.0.0.1:6443'
/** What the suite finds configured. Source: test/e2e/framework/node/runtimeclass. */
const preconfiguredHandler = 'test-handler'
/** Where the suite runs, and leaves files of its own. */
const cwd = `${inside.scratch}/suite`

/** For one spec, in seconds: those that the suite calls slow wait for minutes, some for the kubelet's longest back-off. */
const secondsMax = ({ text }: Spec): number => (text.includes('[Slow]') ? 1500 : 400)

export interface Run extends AsyncDisposable {
  readonly versions: Readonly<Record<string, string>>
  /** Runs these specs, one after another, and answers what became of them; those it did not get to are left out. */
  specs(specs: readonly Spec[]): Promise<readonly SpecReport[]>
}

/** Starts what the suite needs, with `handler` for pods that name no runtime class. It keeps running until disposed of. */
export async function startRun(handler: string): Promise<Run> {
  const stack = new AsyncDisposableStack()
  try {
    const node = stack.use(await startNode())
    await writeIn(node, `${certsDir}/_default/hosts.toml`, `[host."http://127.0.0.1:${registryPort}"]\n  capabilities = ["pull", "resolve"]\n`)
    await node.start({
      name: 'registry',
      command: 'node',
      args: [`${inside.checkout}/test/node-conformance/registry.ts`, String(registryPort)],
      ready: async () => (await node.exec('wget', ['-q', '-O', '-', `http://127.0.0.1:${registryPort}/v2/`])).exitCode === 0,
    })
    if (handler !== 'runc') stack.use(await startSandboxer(node))
    stack.use(await startContainerd(node, { registryHosts: certsDir, defaultRuntime: handler, aliases: { [preconfiguredHandler]: handler } }))
    await prepareKubelet(node, server, kubeletConfig)
    // The suite's API server takes the address that it advertises from the default route.
    await node.run('ip', ['route', 'add', 'default', 'dev', 'kube0'])
    await mkdir(join(node.dir, 'scratch/suite'))
    await node.start({
      name: 'services',
      command: suite,
      args: ['--run-services-mode', `--bearer-token=${token}`],
      cwd,
      ready: async () => (await kubectlOf(node, ['get', '--raw', '/readyz'])).stdout === 'ok',
      readyMsMax,
    })
    await startKubelet(node)
    if (handler !== 'runc') await everyPodIsA(node, handler)
    const versions = await versionsOf(node, handler)
    const undo = stack.move()
    let calls = 0
    return { versions, specs: (specs) => runSpecs(node, specs, ++calls), [Symbol.asyncDispose]: () => undo.disposeAsync() }
  } catch (error) {
    await stack.disposeAsync()
    throw error
  }
}

/** As the suite configures a kubelet that it starts itself. Source: test/e2e_node/services/kubelet.go. */
const kubeletConfig = {
  cgroupRoot: '/',
  podCIDR: '10.100.0.0/24',
  readOnlyPort: 10_255,
  volumeStatsAggPeriod: '10s',
  fileCheckFrequency: '10s',
  serializeImagePulls: false,
}

async function runSpecs(node: TestNode, specs: readonly Spec[], call: number): Promise<readonly SpecReport[]> {
  const name = `suite-${call}`
  const report = `${cwd}/${name}.json`
  const result = await node.exec(
    suite,
    [
      '--start-services=false',
      '--prepull-images=false',
      `--bearer-token=${token}`,
      `--node-name=${nodeName}`,
      `--container-runtime-endpoint=unix://${inside.containerdSocket}`,
      `--ginkgo.focus=${focusOn(specs)}`,
      `--ginkgo.timeout=${specs.map(secondsMax).reduce((sum, seconds) => sum + seconds, 0)}s`,
      `--ginkgo.json-report=${report}`,
      '--ginkgo.no-color',
    ],
    { cwd },
  )
  await writeFile(join(node.dir, `scratch/logs/${name}.log`), `${result.stdout}${result.stderr}`)
  return readFile(join(node.dir, `scratch/suite/${name}.json`), 'utf8').then(readReport, () => [])
}

async function versionsOf(node: TestNode, handler: string): Promise<Record<string, string>> {
  const first = async (command: string) => (await node.run(command, ['--version'])).split('\n')[0]?.trim() ?? ''
  const kubelet = (await first(`${bin}/kubelet`)).replace('Kubernetes ', '')
  const containerd = (await first('containerd')).split(' ')[2] ?? ''
  return { kubelet, containerd, ...(handler === 'runc' ? { runc: (await first('runc')).replace('runc version ', '') } : {}) }
}

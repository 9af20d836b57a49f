/** A kubelet in a test node, over the node's containerd. */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { ExecOptions, TestNode } from '#test/node/node.ts'
import { inside } from '#test/node/paths.ts'
import type { Service } from '#test/node/service.ts'

/** The node's name in the cluster. */
export const nodeName = 'node'

/** The node's address, on a bridge that leads nowhere: the kubelet takes no loopback address for its own. */
export const address = '10.200.0.1'

/** Where the programs are. */
export const bin = `${inside.checkout}/build/kubernetes`
export const dir = '/etc/kubernetes'
export const kubeconfigPath = `${dir}/kubeconfig`
/** Where the kubelet looks for static pods. */
export const manifests = `${dir}/manifests`
const kubeletConfigPath = `${dir}/kubelet.json`
export const token = 'of-the-tests'

/**
 * What the kubelet sets at its start, and is not the node's own but the whole machine's: it finds them as it wants them.
 * Source: kubernetes, pkg/kubelet/cm/container_manager_linux.go and pkg/util/sysctl.
 */
const kernelDefaults = {
  'vm/overcommit_memory': 1,
  'vm/panic_on_oom': 0,
  'kernel/panic': 10,
  'kernel/panic_on_oops': 1,
  'kernel/keys/root_maxkeys': 1_000_000,
  'kernel/keys/root_maxbytes': 25_000_000,
}

export const readyMsMax = 120_000

/** Makes the node one that a kubelet starts on, and writes its configuration: for the API server at `server`, a URL. */
export async function prepareKubelet(node: TestNode, server: string, config: object = {}): Promise<void> {
  await node.run('sh', ['-c', prepareScript])
  await writeIn(node, kubeconfigPath, JSON.stringify(kubeconfig(server)))
  await writeIn(node, kubeletConfigPath, JSON.stringify({ ...kubeletConfig, ...config }))
}

/** Runs kubectl to its end. A failing exit status is a result. */
export const kubectlOf = (node: TestNode, args: readonly string[], options?: ExecOptions) =>
  node.exec(`${bin}/kubectl`, ['--kubeconfig', kubeconfigPath, ...args], options)

/** Resolves when the node is ready for pods. */
export function startKubelet(node: TestNode): Promise<Service> {
  // The API server still knows the last kubelet's word; and one that is starting dies when containerd is not there.
  const healthy = async () => (await node.exec('wget', ['-q', '-O', '-', 'http://127.0.0.1:10248/healthz'])).stdout === 'ok'
  const ready = ['get', 'node', nodeName, '-o', 'jsonpath={.status.conditions[?(@.type=="Ready")].status}']
  return node.start({
    name: 'kubelet',
    command: `${bin}/kubelet`,
    args: ['--config', kubeletConfigPath, '--kubeconfig', kubeconfigPath, '--hostname-override', nodeName, '--node-ip', address],
    ready: async () => (await healthy()) && (await kubectlOf(node, ready)).stdout === 'True',
    readyMsMax,
  })
}

/** Writes a file of the node, and the directories it lies in. */
export async function writeIn(node: TestNode, path: string, content: string): Promise<void> {
  await mkdir(dirname(node.path(path)), { recursive: true })
  await writeFile(node.path(path), content)
}

/** The kubelet's directory is a plain one: cadvisor knows no overlay's size. */
const prepareScript = `set -e
ip link add kube0 type bridge
ip address add ${address}/24 dev kube0
ip link set kube0 up
mknod /dev/kmsg c 1 11
mkdir -p ${inside.scratch}/kubelet /var/lib/kubelet ${manifests}
mount --bind ${inside.scratch}/kubelet /var/lib/kubelet
mkdir /run/kernel-defaults
${Object.entries(kernelDefaults)
  .map(([name, value]) => `f=/run/kernel-defaults/${name.replaceAll('/', '.')}; echo ${value} >$f; mount --bind $f /proc/sys/${name}`)
  .join('\n')}
`

const kubeconfig = (server: string) => ({
  apiVersion: 'v1',
  kind: 'Config',
  clusters: [{ name: 'test', cluster: { server, 'insecure-skip-tls-verify': true } }],
  users: [{ name: 'admin', user: { token } }],
  contexts: [{ name: 'test', context: { cluster: 'test', user: 'admin' } }],
  'current-context': 'test',
})

const kubeletConfig = {
  apiVersion: 'kubelet.config.k8s.io/v1beta1',
  kind: 'KubeletConfiguration',
  authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
  authorization: { mode: 'AlwaysAllow' },
  containerRuntimeEndpoint: `unix://${inside.containerdSocket}`,
  cgroupDriver: 'cgroupfs',
  failCgroupV1: false,
  failSwapOn: false,
  staticPodPath: manifests,
  // The machine's disk is not the node's business.
  evictionHard: { 'memory.available': '0%', 'nodefs.available': '0%', 'nodefs.inodesFree': '0%', 'imagefs.available': '0%', 'imagefs.inodesFree': '0%' },
  imageGCHighThresholdPercent: 100,
  // ConfigMaps and Secrets are mounted anew at least so often, and as soon as they change.
  syncFrequency: '10s',
}

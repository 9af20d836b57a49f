/** Kubernetes in a test node: etcd, an API server and a kubelet over the node's containerd. There is no scheduler: pods name their node. */
import { generateKeyPairSync } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Kuasar } from '#test/support/kuasar.ts'
import type { ExecOptions } from '#test/node/node.ts'
import { inside } from '#test/node/paths.ts'
import type { Service } from '#test/node/service.ts'

/** The node's name in the cluster. */
export const nodeName = 'node'

/** The node's address, on a bridge that leads nowhere: the kubelet takes no loopback address for its own. */
const address = '10.200.0.1'

const bin = `${inside.checkout}/build/kubernetes`
const dir = '/etc/kubernetes'
const kubeconfigPath = `${dir}/kubeconfig`
/** Where the kubelet looks for static pods. */
export const manifests = `${dir}/manifests`
const kubeletConfigPath = `${dir}/kubelet.json`
const token = 'of-the-tests'

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

const readyMsMax = 120_000

export interface Cluster extends AsyncDisposable {
  readonly kubelet: Service
  /** Runs kubectl to its end and answers its output; one that fails is an error. */
  readonly kubectl: (args: readonly string[], options?: ExecOptions) => Promise<string>
  /** Makes these objects, given as `kubectl apply` takes them. */
  readonly apply: (manifest: string) => Promise<void>
  /** Starts a kubectl that stays: port-forward. It listens inside the node. */
  start(name: string, args: readonly string[], ready: () => Promise<boolean>): Promise<Service>
  /** Ends the kubelet and starts it again. */
  restartKubelet(signal?: NodeJS.Signals): Promise<void>
}

/** Starts the cluster, and resolves when its node is ready for pods. */
export async function startCluster(kuasar: Kuasar): Promise<Cluster> {
  const { node } = kuasar
  const write = async (path: string, content: string) => {
    await mkdir(dirname(node.path(path)), { recursive: true })
    await writeFile(node.path(path), content)
  }
  await kuasar.sh(prepareScript)
  const { privateKey, publicKey } = generateKeyPairSync('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  })
  await write(`${dir}/accounts.key`, privateKey)
  await write(`${dir}/accounts.pub`, publicKey)
  await write(`${dir}/tokens.csv`, `${token},admin,admin,system:masters\n`)
  await write(kubeconfigPath, JSON.stringify(kubeconfig))
  await write(kubeletConfigPath, JSON.stringify(kubeletConfig))

  const kubectl: Cluster['kubectl'] = (args, options) => node.run(`${bin}/kubectl`, ['--kubeconfig', kubeconfigPath, ...args], options)
  const apply: Cluster['apply'] = async (manifest) => void (await kubectl(['apply', '-f', '-'], { input: manifest }))
  const answers = (args: readonly string[], pattern: RegExp) => async () => {
    const { stdout, exitCode } = await node.exec(`${bin}/kubectl`, ['--kubeconfig', kubeconfigPath, ...args])
    return exitCode === 0 && pattern.test(stdout)
  }
  // The API server still knows the last kubelet's word; and one that is starting dies when containerd is not there.
  const healthy = async () => (await node.exec('wget', ['-q', '-O', '-', 'http://127.0.0.1:10248/healthz'])).stdout === 'ok'
  const nodeReady = answers(['get', 'node', nodeName, '-o', 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'], /^True$/)
  const startKubelet = () =>
    node.start({
      name: 'kubelet',
      command: `${bin}/kubelet`,
      args: ['--config', kubeletConfigPath, '--kubeconfig', kubeconfigPath, '--hostname-override', nodeName, '--node-ip', address],
      ready: async () => (await healthy()) && (await nodeReady()),
      readyMsMax,
    })

  await using stack = new AsyncDisposableStack()
  const started = (service: Service) => stack.adopt(service, async () => void (await service.stop()))
  started(await node.start({ name: 'etcd', command: `${bin}/etcd`, args: ['--data-dir', '/var/lib/etcd', '--unsafe-no-fsync'] }))
  started(
    await node.start({
      name: 'apiserver',
      command: `${bin}/kube-apiserver`,
      args: apiserverArgs,
      ready: answers(['get', '--raw', '/readyz'], /^ok$/),
      readyMsMax,
    }),
  )
  // What the controllers of a whole cluster make for each namespace, and pods wait for.
  await kubectl(['create', 'serviceaccount', 'default'])
  await kubectl(['create', 'configmap', 'kube-root-ca.crt', `--from-file=ca.crt=${dir}/pki/apiserver.crt`])
  let kubelet = await startKubelet()
  stack.defer(async () => void (await kubelet.stop()))
  const undo = stack.move()
  return {
    get kubelet() {
      return kubelet
    },
    kubectl,
    apply,
    start: (name, args, ready) => node.start({ name, command: `${bin}/kubectl`, args: ['--kubeconfig', kubeconfigPath, ...args], ready }),
    async restartKubelet(signal) {
      await kubelet.stop(signal)
      kubelet = await startKubelet()
    },
    [Symbol.asyncDispose]: () => undo.disposeAsync(),
  }
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

const apiserverArgs = [
  '--etcd-servers=http://127.0.0.1:2379',
  `--advertise-address=${address}`,
  `--cert-dir=${dir}/pki`,
  '--service-cluster-ip-range=10.201.0.0/24',
  '--service-account-issuer=https://kubernetes.default.svc',
  `--service-account-key-file=${dir}/accounts.pub`,
  `--service-account-signing-key-file=${dir}/accounts.key`,
  `--token-auth-file=${dir}/tokens.csv`,
  '--authorization-mode=AlwaysAllow',
  '--kubelet-preferred-address-types=InternalIP',
]

const kubeconfig = {
  apiVersion: 'v1',
  kind: 'Config',
  clusters: [{ name: 'test', cluster: { server: `https://${address}:6443`, 'insecure-skip-tls-verify': true } }],
  users: [{ name: 'admin', user: { token } }],
  contexts: [{ name: 'test', context: { cluster: 'test', user: 'admin' } }],
  'current-context': 'test',
}

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

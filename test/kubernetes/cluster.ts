/** Kubernetes in a test node: etcd, an API server and a kubelet over the node's containerd. There is no scheduler: pods name their node. */
import { generateKeyPairSync } from 'node:crypto'
import type { Kuasar } from '#test/support/kuasar.ts'
import type { ExecOptions } from '#test/node/node.ts'
import type { Service } from '#test/node/service.ts'
import { address, bin, dir, kubeconfigPath, kubectlOf, prepareKubelet, readyMsMax, startKubelet, token, writeIn } from './kubelet.ts'

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
  await prepareKubelet(node, `https://${address}:6443`)
  const { privateKey, publicKey } = generateKeyPairSync('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  })
  await writeIn(node, `${dir}/accounts.key`, privateKey)
  await writeIn(node, `${dir}/accounts.pub`, publicKey)
  await writeIn(node, `${dir}/tokens.csv`, `${token},admin,admin,system:masters\n`)

  const kubectl: Cluster['kubectl'] = (args, options) => node.run(`${bin}/kubectl`, ['--kubeconfig', kubeconfigPath, ...args], options)
  const apply: Cluster['apply'] = async (manifest) => void (await kubectl(['apply', '-f', '-'], { input: manifest }))
  const answers = (args: readonly string[], pattern: RegExp) => async () => {
    const { stdout, exitCode } = await kubectlOf(node, args)
    return exitCode === 0 && pattern.test(stdout)
  }

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
  let kubelet = await startKubelet(node)
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
      kubelet = await startKubelet(node)
    },
    [Symbol.asyncDispose]: () => undo.disposeAsync(),
  }
}

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

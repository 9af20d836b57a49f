/**
 * Pods as a user of Kubernetes has them, by kubectl, an API server and a kubelet: the objects of docs/kubernetes.md word by word, and then
 * one pod of everything, on runc and in a microVM. What runc does is the yardstick: the same is asserted of both.
 */
import { readFileSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { leaksSince, snapshot } from '#test/node/leaks.ts'
import { checkout } from '#test/node/paths.ts'
import { poll } from '#test/node/poll.ts'
import { signalProcess } from '#test/support/faults.ts'
import { images, microvm, startKuasar } from '#test/support/kuasar.ts'
import { lackOfGo } from '../../tools/go.ts'
import { startCluster } from './cluster.ts'
import { everything, type PodStatus } from './everything.ts'
import { manifests, nodeName } from './kubelet.ts'

const changeMsMax = 120_000
/** Between two looks: kubectl takes time that an emulated machine wants. */
const pauseMs = 500
const Mi = 1024 * 1024

/** What a kubelet that is started again makes anew, and the cgroups of its classes of pods. */
const kubelets = /^socket \/var\/lib\/kubelet\/pod-resources\/|^cgroup .*\/kubepods\/(burstable|besteffort)$/

const lack = lackOfGo(import.meta.dirname)

/** A block of YAML of docs/kubernetes.md, by a line that it has. */
function documented(line: string): string {
  const blocks = readFileSync(join(checkout, 'docs/kubernetes.md'), 'utf8').matchAll(/^```yaml\n([^]*?)^```$/gm)
  const found = [...blocks].map(([, block = '']) => block).find((block) => block.split('\n').includes(line))
  if (found === undefined) throw new Error(`docs/kubernetes.md has no block of YAML with the line "${line}"`)
  return found
}

async function until(what: string, met: () => Promise<boolean>): Promise<void> {
  const seen = await poll(changeMsMax, async () => (await met()) || (await sleep(pauseMs, undefined)))
  if (seen !== true) throw new Error(`not within ${changeMsMax} ms: ${what}`)
}

await t.test('Kubernetes', { skip: lack === undefined ? false : `lacks: ${lack}` }, async (t) => {
  const kuasar = await startKuasar()
  t.teardown(() => kuasar[Symbol.asyncDispose]())
  const { node } = kuasar
  const cluster = await startCluster(kuasar)
  t.teardown(() => cluster[Symbol.asyncDispose]())
  const { kubectl, apply } = cluster
  const statusOf = async (pod: string): Promise<PodStatus> => JSON.parse(await kubectl(['get', 'pod', pod, '-o', 'jsonpath={.status}']))
  const exec = (pod: string, script: string, container = 'app') => kubectl(['exec', pod, '-c', container, '--', 'sh', '-c', script])
  const containerOf = async (pod: string, container: string) => (await statusOf(pod)).containerStatuses?.find(({ name }) => name === container)
  const ready = (pod: string, container = 'app') => until(`${pod} is ready`, async () => (await containerOf(pod, container))?.ready === true)

  await t.test('docs/kubernetes.md: the node, the runtime class, the pod', async (t) => {
    const handlers = await kubectl(['get', 'node', nodeName, '-o', 'jsonpath={.status.runtimeHandlers[*].name}'])
    t.ok(handlers.split(' ').includes(microvm), `the kubelet reports ${handlers}`)
    await kubectl(['label', 'node', nodeName, 'kuasar.io/sandboxer=true'])
    await apply(documented('kind: RuntimeClass'))
    // There is no scheduler, and no registry.
    await apply(documented('kind: Pod').replace('image: busybox', `image: ${images.busybox}`).replace(/^spec:$/m, `spec:\n  nodeName: ${nodeName}`))
    await ready('hello', 'shell')
    t.equal(await kubectl(['get', 'pod', 'hello', '-o', 'jsonpath={.spec.nodeSelector}']), '{"kuasar.io/sandboxer":"true"}', 'only to labelled nodes')
    t.not((await kubectl(['logs', 'hello'])).trim(), (await kuasar.sh('uname -r')).trim(), 'a kernel that is not the node’s')
    const forward = await cluster.start('forward', ['port-forward', 'pod/hello', '8080'], async () =>
      (await readFile(join(node.dir, 'scratch/logs/forward.log'), 'utf8')).includes('Forwarding'))
    t.match(await kuasar.sh('wget -S -O - http://127.0.0.1:8080/ 2>&1 || true'), /HTTP\/1\.1 404/, 'port-forward reaches its httpd')
    await forward.stop()

    const uid = await kubectl(['get', 'pod', 'hello', '-o', 'jsonpath={.metadata.uid}'])
    const limit = await kuasar.sh(`cd /sys/fs/cgroup; cat memory/kubepods/pod${uid}/memory.limit_in_bytes kubepods/pod${uid}/memory.max 2>/dev/null || true`)
    t.equal(Number(limit), (128 + 660) * Mi, 'the pod’s cgroup: its limits and the overhead')
    const top = new RegExp(`^container_memory_working_set_bytes\\{container="shell",namespace="default",pod="hello"\\} (\\S+)`, 'm')
    await until('what kubectl top shows', async () => {
      const found = top.exec(await kubectl(['get', '--raw', `/api/v1/nodes/${nodeName}/proxy/metrics/resource`]))
      return Number(found?.[1]) > 0 && Number(found?.[1]) < 128 * Mi
    })
    await kubectl(['delete', 'pod', 'hello', '--now'])
  })

  const before = await snapshot(node)
  const left = async () => {
    let leaks: readonly string[] = []
    await poll(changeMsMax, async () => {
      leaks = (await leaksSince(node, before, 0)).filter((leak) => !kubelets.test(leak))
      return leaks.length === 0 || undefined
    })
    return leaks
  }
  await kubectl(['create', 'configmap', 'settings', '--from-literal=key=one'])
  for (const runtimeClass of [undefined, microvm]) {
    const name = runtimeClass ?? 'runc'
    await t.test(`a pod of everything: ${name}`, async (t) => {
      await kubectl(['patch', 'configmap', 'settings', '-p', '{"data":{"key":"one"}}'])
      await apply(JSON.stringify(everything(name, nodeName, runtimeClass)))
      await ready(name)
      t.equal(await exec(name, 'cat /disk/trace'), 'init\npost-start\n', 'init container, sidecar with a probe, postStart')
      t.match(await exec(name, 'id; cat /etc/hosts /etc/resolv.conf /proc/sys/net/ipv4/ip_local_port_range; stat -c %g /disk'),
        /groups=.*2345[^]*10\.9\.9\.9\s+alias\.example[^]*nameserver 10\.1\.2\.3[^]*40000\t50000[^]*2345/, 'fsGroup, hostAliases, dnsConfig, sysctls')
      t.equal(await exec(name, 'cat /settings/key /projected/labels; wc -c </memory/init; test -s /var/run/secrets/kubernetes.io/serviceaccount/token'), 'onetier="test"5\n', 'ConfigMap, downward API, emptyDir in memory, token')
      await t.rejects(exec(name, 'exit 7'), /exit code 7/, 'exec hands its exit code on')
      await kubectl(['patch', 'configmap', 'settings', '-p', '{"data":{"key":"two"}}'])
      await kubectl(['label', 'pod', name, 'tier=live', '--overwrite'])
      await until('volumes are updated', async () => (await exec(name, 'cat /settings/key /projected/labels')) === 'twotier="live"')

      await until('the crashing container backs off', async () =>
        (await containerOf(name, 'crash'))?.state.waiting?.reason === 'CrashLoopBackOff')
      t.equal(await kubectl(['logs', name, '-c', 'crash', '--previous']), 'last words\n', 'logs of the life before')
      const ended = async (container: string) => (await containerOf(name, container))?.lastState.terminated
      t.match(await ended('crash'), { exitCode: 3, message: 'why\n', reason: 'Error' }, 'terminationMessagePath')
      await until('OOMKilled', async () => (await ended('greedy'))?.reason === 'OOMKilled')

      const resized = { name: 'app', resources: { limits: { cpu: '2', memory: '96Mi' } } }
      await kubectl(['patch', 'pod', name, '--subresource=resize', '-p', JSON.stringify({ spec: { containers: [resized] } })])
      const limits = 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null'
      await until('resized in place', async () => Number((await exec(name, `${limits}; true`)).trim()) === 96 * Mi)
      await kubectl(['debug', name, `--image=${images.busybox}`, '--target=app', '--profile=general', '-c', 'debugger', '--', 'ls', '/proc/1/root/settings'])
      await until('an ephemeral container', async () => (await kubectl(['logs', name, '-c', 'debugger']).catch(() => '')) === 'key\n')

      const restarts = async () => (await containerOf(name, 'app'))?.restartCount
      t.equal(await restarts(), 0, 'resized without a restart')
      await cluster.restartKubelet()
      await kuasar.containerd.restart()
      await kuasar.sandboxer.restart('SIGKILL')
      await until('exec works again', async () => (await exec(name, 'cat /settings/key').catch(() => '')) === 'two')
      t.equal(await restarts(), 0, 'restarts of kubelet, containerd and the sandboxer restart no container')
      await exec(name, 'touch /disk/unwell')
      await until('a restart by the liveness probe', async () => (await restarts()) === 1)
      await ready(name)

      await kubectl(['delete', 'pod', name])
      t.equal(await kuasar.sh(`cat /scratch/${name}/order`), 'pre-stop\napp\npre-stop\napp\nsidecar\n', 'hooks and signals of the restart and the deletion, the sidecar last')
      t.strictSame(await left(), [], 'nothing is left')
    })
  }

  await t.test('a static pod, whose machine is killed', async (t) => {
    const container = { name: 'app', image: images.busybox, command: ['sleep', '1000'], resources: { limits: { cpu: '1', memory: '64Mi' } } }
    // Admission sets no overhead for a pod that comes from a file.
    const spec = { runtimeClassName: microvm, overhead: { memory: '660Mi' }, terminationGracePeriodSeconds: 1, containers: [container] }
    const file = node.path(`${manifests}/static.json`)
    await writeFile(file, JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'static', namespace: 'default' }, spec }))
    const name = `static-${nodeName}`
    await until('the static pod', async () => (await kubectl(['get', 'pod', name, '-o', 'name', '--ignore-not-found'])) !== '')
    await ready(name)
    const sandbox = (await kuasar.containerd.cri.pods()).find(({ metadata, state }) => metadata?.name === name && state === 'SANDBOX_READY')
    await signalProcess(node, sandbox?.id ?? '', 'qemu', 'KILL')
    await until('a sandbox anew', async () => (await containerOf(name, 'app'))?.restartCount === 1)
    await ready(name)
    t.not((await exec(name, 'uname -r')).trim(), (await kuasar.sh('uname -r')).trim(), 'the machine that took its place')
    await kuasar.sh(`rm ${manifests}/static.json`)
    t.strictSame(await left(), [], 'nothing is left')
  })
})

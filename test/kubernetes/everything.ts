/** One pod that asks for most of what a pod may ask for, but what the node's registry, storage or scheduler would have to give. */
import { images } from '#test/support/kuasar.ts'

/** What tests read of a pod's status. */
export interface PodStatus {
  /** Absent before the kubelet has seen the pod. */
  readonly containerStatuses?: readonly {
    readonly name: string
    readonly ready: boolean
    readonly restartCount: number
    readonly state: { readonly waiting?: { readonly reason: string } }
    readonly lastState: { readonly terminated?: { readonly exitCode: number; readonly reason: string; readonly message?: string } }
  }[]
}

const container = (name: string, script: string, rest: object = {}) => ({ name, image: images.busybox, command: ['sh', '-c', script], ...rest })

const script = (text: string) => ({ exec: { command: ['sh', '-c', text] } })

const untilTerm = (word: string) => `trap 'echo ${word} >>/orders/order; exit 0' TERM; while :; do sleep 0.3; done`

/** `order` in /scratch/NAME on the node tells what a deletion ran, in its order. */
export function everything(name: string, nodeName: string, runtimeClassName: string | undefined): object {
  // Probes under emulation, on a machine that others use too.
  const patient = { timeoutSeconds: 30, failureThreshold: 60, periodSeconds: 1 }
  const disk = { name: 'disk', mountPath: '/disk' }
  const memory = { name: 'memory', mountPath: '/memory' }
  const orders = { name: 'orders', mountPath: '/orders' }
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'default', labels: { tier: 'test' } },
    spec: {
      nodeName,
      runtimeClassName,
      terminationGracePeriodSeconds: 60,
      hostAliases: [{ ip: '10.9.9.9', hostnames: ['alias.example'] }],
      dnsPolicy: 'None',
      dnsConfig: { nameservers: ['10.1.2.3'] },
      securityContext: { fsGroup: 2345, sysctls: [{ name: 'net.ipv4.ip_local_port_range', value: '40000 50000' }] },
      volumes: [
        { name: 'disk', emptyDir: {} },
        { name: 'memory', emptyDir: { medium: 'Memory', sizeLimit: '16Mi' } },
        { name: 'orders', hostPath: { path: `/scratch/${name}`, type: 'DirectoryOrCreate' } },
        { name: 'settings', configMap: { name: 'settings' } },
        { name: 'projected', projected: { sources: [{ downwardAPI: { items: [{ path: 'labels', fieldRef: { fieldPath: 'metadata.labels' } }] } }] } },
      ],
      initContainers: [
        container('init', 'echo init >>/disk/trace; echo init >/memory/init', { volumeMounts: [disk, memory] }),
        container('sidecar', untilTerm('sidecar'), {
          restartPolicy: 'Always',
          startupProbe: { ...script('test -e /disk/trace'), ...patient },
          volumeMounts: [disk, orders],
        }),
      ],
      containers: [
        container('app', `echo well >/tmp/index.html; httpd -p 8080 -h /tmp; ${untilTerm('app')}`, {
          resources: { limits: { cpu: '1', memory: '64Mi' }, requests: { cpu: '10m' } },
          startupProbe: { tcpSocket: { port: 8080 }, ...patient },
          readinessProbe: { httpGet: { path: '/', port: 8080 }, ...patient },
          livenessProbe: { ...script('! rm /disk/unwell 2>/dev/null'), ...patient, failureThreshold: 1 },
          lifecycle: { postStart: script('echo post-start >>/disk/trace'), preStop: script('echo pre-stop >>/orders/order') },
          volumeMounts: [disk, memory, orders, { name: 'settings', mountPath: '/settings' }, { name: 'projected', mountPath: '/projected' }],
        }),
        container('crash', 'echo last words; echo why >/dev/termination-log; sleep 1; exit 3'),
        container('greedy', 'sleep 1; exec tail /dev/zero', { resources: { limits: { memory: '24Mi' } } }),
      ],
    },
  }
}

/**
 * The suite's pods name no runtime class, and containerd's default gives them none of its overhead: a machine does not fit into the
 * limits of its containers. So the API server puts the class on every pod that names none.
 */
import { poll } from '#test/node/poll.ts'
import type { TestNode } from '#test/node/node.ts'
import { kubectlOf } from '../kubernetes/kubelet.ts'

const readyMsMax = 60_000

/** As docs/kubernetes.md has it, without what chooses nodes. */
const overhead = { memory: '660Mi' }

/** Resolves when pods get the class `handler`. */
export async function everyPodIsA(node: TestNode, handler: string): Promise<void> {
  const kubectl = async (args: readonly string[], input: unknown) => {
    const { stdout, stderr, exitCode } = await kubectlOf(node, args, { input: JSON.stringify(input) })
    if (exitCode !== 0) throw new Error(`kubectl ${args.join(' ')} ended with ${exitCode}: ${stderr}`)
    return stdout
  }
  for (const object of objects(handler)) await kubectl(['create', '-f', '-'], object)
  // Admission takes a policy up a moment later.
  const taken = await poll(readyMsMax, async () =>
    (await kubectl(['create', '--dry-run=server', '-f', '-', '-o', 'jsonpath={.spec.runtimeClassName}'], aPod)) === handler || undefined)
  if (taken !== true) throw new Error(`within ${readyMsMax} ms, no pod got the runtime class ${handler} of the policy`)
}

const aPod = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'any' }, spec: { containers: [{ name: 'any', image: 'any' }] } }

const add = (path: string, value: string) => `JSONPatch{op: "add", path: "/spec/${path}", value: ${value}}`

function objects(handler: string): readonly object[] {
  const registration = 'admissionregistration.k8s.io/v1'
  const patch = `[${add('runtimeClassName', `"${handler}"`)}, ${add('overhead', JSON.stringify(overhead))}]`
  return [
    { apiVersion: 'node.k8s.io/v1', kind: 'RuntimeClass', metadata: { name: handler }, handler, overhead: { podFixed: overhead } },
    {
      apiVersion: registration,
      kind: 'MutatingAdmissionPolicy',
      metadata: { name: handler },
      spec: {
        matchConstraints: { resourceRules: [{ apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['pods'] }] },
        // A pod of a file is what the kubelet says of it.
        matchConditions: [
          { name: 'none', expression: '!has(object.spec.runtimeClassName)' },
          { name: 'no-mirror', expression: "!has(object.metadata.annotations) || !('kubernetes.io/config.mirror' in object.metadata.annotations)" },
        ],
        reinvocationPolicy: 'Never',
        failurePolicy: 'Fail',
        mutations: [{ patchType: 'JSONPatch', jsonPatch: { expression: patch } }],
      },
    },
    { apiVersion: registration, kind: 'MutatingAdmissionPolicyBinding', metadata: { name: handler }, spec: { policyName: handler } },
  ]
}

/** Kubernetes's own node conformance suite, built from its Go module (test/kubernetes/go.mod): its specs, and its reports. */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { leavesOf } from '#test/conformance/ginkgo.ts'
import { checkout } from '#test/node/paths.ts'

/** Where the suite and agnhost, what its containers run, are built to. */
export const programsDir = join(checkout, 'build/kubernetes')

/** What the authors' own image of the suite runs, but for the focus on specs that are also of a whole cluster's conformance. */
const scope = 'NodeConformance && !Serial && !Flaky'

export interface Spec {
  /** The top of its place in the suite's tree. */
  readonly group: string
  /** The rest of its place, and its own text. */
  readonly name: string
  /** All of it, as the suite matches it. */
  readonly text: string
}

/** What became of a spec, in ginkgo's words. */
export interface SpecReport extends Spec {
  readonly state: string
  /** Of a failure, or the reason of a skip; empty for others. */
  readonly message: string
  readonly seconds: number
}

/** Reads ginkgo's JSON report. */
export function readReport(json: string): SpecReport[] {
  return leavesOf(json).map(({ path, state, message, waitingFor, seconds }) => {
    const [top, ...rest] = path
    return {
      group: clean(top),
      name: clean(rest.join(' ').trim()),
      text: path.filter((part) => part !== '').join(' '),
      state,
      message: [message, ...waitingFor].join('\n').trim(),
      seconds,
    }
  })
}

/** Marks for the suite's own selection say nothing here. */
function clean(text: string): string {
  return text.replaceAll(/\s*\[(sig-\w+|NodeConformance|Conformance|LinuxOnly|Slow|Beta|FeatureGate:\w+)\]\s*/g, ' ').trim().replace(/:$/, '')
}

/** Every spec in scope, in the order of its text. */
export async function listSpecs(): Promise<Spec[]> {
  const dir = await mkdtemp(join(tmpdir(), 'node-conformance-'))
  try {
    const file = join(dir, 'specs.json')
    await execa(join(programsDir, 'e2e_node.test'), ['--ginkgo.dry-run', `--ginkgo.label-filter=${scope}`, `--ginkgo.json-report=${file}`], { stdin: 'ignore', cwd: dir })
    const specs = readReport(await readFile(file, 'utf8')).filter(({ state }) => state === 'passed')
    return specs.map(({ group, name, text }) => ({ group, name, text })).toSorted((a, b) => (a.text < b.text ? -1 : 1))
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** Of Kubernetes, as test/kubernetes/go.mod pins it. */
export async function release(): Promise<string> {
  const found = /k8s\.io\/kubernetes (v\S+)/.exec(await readFile(join(checkout, 'test/kubernetes/go.mod'), 'utf8'))?.[1]
  if (found === undefined) throw new Error('test/kubernetes/go.mod does not require k8s.io/kubernetes')
  return found
}

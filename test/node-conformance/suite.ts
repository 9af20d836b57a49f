/** Kubernetes's own node conformance suite, built from its Go module (test/kubernetes/go.mod): its specs, and its reports. */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { z } from 'zod'
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

const report = z.array(
  z.object({
    SpecReports: z.array(
      z.object({
        ContainerHierarchyTexts: z.array(z.string()).nullable(),
        LeafNodeType: z.string(),
        LeafNodeText: z.string(),
        State: z.string(),
        /** Nanoseconds */
        RunTime: z.number().default(0),
        Failure: z
          .object({
            Message: z.string(),
            /** Of a spec that was timed out: what it was waiting for */
            ProgressReport: z.object({ AdditionalReports: z.array(z.string()).nullish() }).optional(),
          })
          .optional(),
      }),
    ),
  }),
)

/** Reads ginkgo's JSON report. */
export function readReport(json: string): SpecReport[] {
  return report.parse(JSON.parse(json)).flatMap(({ SpecReports }) =>
    SpecReports.filter(({ LeafNodeType }) => LeafNodeType === 'It').map(({ ContainerHierarchyTexts, LeafNodeText, State, RunTime, Failure }) => {
      const [top = '', ...rest] = ContainerHierarchyTexts ?? []
      return {
        group: clean(top),
        name: clean([...rest, LeafNodeText].join(' ').trim()),
        text: [top, ...rest, LeafNodeText].filter((part) => part !== '').join(' '),
        state: State,
        message: [Failure?.Message ?? '', ...(Failure?.ProgressReport?.AdditionalReports ?? [])].join('\n').trim(),
        seconds: RunTime / 1e9,
      }
    }),
  )
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

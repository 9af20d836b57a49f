/** Ginkgo's JSON report, and its way to name the specs to run. What a suite calls its specs is the suite's own. */
import { z } from 'zod'

/** One spec of a report. */
export interface Leaf {
  /** Where it stands in the suite's tree, from the top, its own text last. */
  readonly path: readonly [top: string, ...rest: string[]]
  readonly labels: readonly string[]
  /** What became of it, in ginkgo's words. */
  readonly state: string
  /** Of a failure, or the reason of a skip; empty for others. */
  readonly message: string
  /** Of a spec that was timed out: what it was waiting for. */
  readonly waitingFor: readonly string[]
  readonly seconds: number
}

const report = z.array(
  z.object({
    SpecReports: z.array(
      z.object({
        ContainerHierarchyTexts: z.array(z.string()).nullable(),
        LeafNodeType: z.string(),
        LeafNodeText: z.string(),
        LeafNodeLabels: z.array(z.string()).nullish(),
        State: z.string(),
        /** Nanoseconds */
        RunTime: z.number().default(0),
        Failure: z
          .object({ Message: z.string(), ProgressReport: z.object({ AdditionalReports: z.array(z.string()).nullish() }).optional() })
          .optional(),
      }),
    ),
  }),
)

/** The specs of a report; its set-ups and clean-ups are none. Errors: whatever is no report. */
export function leavesOf(json: string): Leaf[] {
  return report.parse(JSON.parse(json)).flatMap(({ SpecReports }) =>
    SpecReports.filter(({ LeafNodeType }) => LeafNodeType === 'It').map(
      ({ ContainerHierarchyTexts, LeafNodeText, LeafNodeLabels, State, RunTime, Failure }): Leaf => {
        const [top = '', ...rest] = ContainerHierarchyTexts ?? []
        return {
          path: [top, ...rest, LeafNodeText],
          labels: LeafNodeLabels ?? [],
          state: State,
          message: Failure?.Message ?? '',
          waitingFor: Failure?.ProgressReport?.AdditionalReports ?? [],
          seconds: RunTime / 1e9,
        }
      },
    ),
  )
}

/** The pattern that selects exactly these specs. */
export function focusOn(specs: readonly { readonly text: string }[]): string {
  return specs.map(({ text }) => `${text.replaceAll(/[\\^$.*+?()[\]{}|]/g, String.raw`\$&`)}$`).join('|')
}

/** docs/conformance.md: every spec, runc beside us. The same results make the same text. */
import { Notes, table } from './card.ts'
import type { Spec } from './critest.ts'
import type { Outcome, Results } from './results.ts'

/** What is scored, runc first. */
export const handlers = ['runc', 'kuasar-qemu'] as const

const words: Readonly<Record<Outcome['kind'], string>> = {
  pass: 'pass',
  fail: '**fail**',
  skip: 'skipped',
  'not-applicable': 'does not apply',
}

/** The column of whole runs. */
const RUNS = 'whole runs'

/** A spec's word where a handler was not asked. */
export const NOT_RUN = '**not run**'

export function scorecard(critest: string, specs: readonly Spec[], all: readonly Results[]): string {
  const notes = new Notes()
  const groups = [...Map.groupBy(specs, ({ group }) => group)]
  const tables = groups.map(([group, members]) => {
    const rows = members.map((spec) => [spec.name, ...all.map(({ outcomes }) => cell(outcomes[spec.text], notes))])
    return `## ${group}\n\n${table(['spec', ...all.map(({ handler }) => handler)], rows)}`
  })
  const kinds = Object.keys(words).filter(isKind)
  const counts = all.map(({ handler, runs, outcomes }) => {
    const of = (kind: Outcome['kind'] | undefined) => specs.filter(({ text }) => outcomes[text]?.kind === kind).length
    return [handler, String(runs), ...[...kinds, undefined].map((kind) => String(of(kind)))]
  })
  const versions = Object.entries(Object.assign({}, ...all.map(({ versions }) => versions))).map(([name, version]) => `${name} ${String(version)}`)
  return `${[
    '# Conformance',
    `What critest ${critest} says of pods in a sandbox, and of runc's beside them: the same containerd, the same images.\nWritten by \`make conformance\`, which fails when a spec that applies to a sandbox does not pass and nobody has said why.`,
    `Run with ${versions.join(', ')}.`,
    table(['handler', RUNS, ...kinds.map((kind) => words[kind].replaceAll('*', '')), NOT_RUN.replaceAll('*', '')], counts),
    ...explanations,
    ...tables,
    ...(notes.text() === '' ? [] : [`## Reasons\n\n${notes.text()}`]),
  ].join('\n\n')}\n`
}

/** What a scorecard says of a handler: by spec, as `wordOf` puts it. */
export function claims(card: string, handler: string): ReadonlyMap<string, string> {
  const found = new Map<string, string>()
  let [group, column] = ['', -1]
  for (const line of card.split('\n')) {
    const [name, ...cells] = line.split(/(?<!\\)\|/).slice(1, -1).map((text) => text.trim())
    const claim = cells[column]
    if (line.startsWith('## ')) group = line.slice(3)
    else if (name === 'spec') column = cells.indexOf(handler)
    else if (name !== undefined && name !== '---' && group !== '' && claim !== undefined)
      found.set(`${group}: ${name.replaceAll(String.raw`\|`, '|')}`, claim.replace(/ \[\d+\]$/, ''))
  }
  return found
}

/** How many whole runs in a row a scorecard says that a handler had; NaN when it says nothing. */
export function runsClaimed(card: string, handler: string): number {
  let column = -1
  for (const line of card.split('\n')) {
    const cells = line.split('|').slice(1, -1).map((text) => text.trim())
    if (cells[0] === 'handler') column = cells.indexOf(RUNS)
    else if (cells[0] === handler) return Number(cells[column] ?? NaN)
  }
  return NaN
}

export const wordOf = ({ kind }: Outcome): string => words[kind]

const explanations = [
  `- **whole runs** are in a row, each with a node of its own and without a second try for any spec; a spec's word is the worst of them.
- **does not apply** is ours, for what is of the host's kernel alone: its processes, IPC, network, AppArmor, SELinux and
  user ids. Such pods are refused with an error that names the field. Nothing else is left out of a run.
- **fail** is critest's word. The command fails with every failure but those that \`test/conformance/scope.ts\` explains,
  and with those too once they pass.
- **skipped** is critest's own doing; why it does is said below. Where runc passes and a sandbox is skipped, critest asks
  containerd first what the runtime can do, and containerd 2.1 asks no runtime but runc.
- \`kuasar-fake\` has no containers, so there is nothing to score; it exists to test the sandboxer.
- SELinux's specs do not exist for critest on a machine without SELinux.

What stands in for what critest names, since no registry is reached; runc and sandboxes get the same
(\`test/conformance/images.ts\`):

- Every image is built here from Debian's static busybox and pulled from a registry on the node's loopback. One constant
  of critest is replaced when it is built: the digest of an image that lies in its authors' registry.
- \`nginx\` and \`httpd\` are a program of ours that listens at once, on the same ports, and has busybox's httpd answer.
- \`/bin/sh\` is a program that runs a single word itself and leaves all else to busybox, whose static build would run its
  own \`ls\` in place of the \`/bin/ls\` that a spec masks, and names lines in its errors, which a spec compares.
- \`pgrep\`, \`ipcs\` and \`ls\` are scripts over \`pidof\`, \`/proc/sysvipc/shm\` and busybox; \`nnp\` is a program that prints its
  effective user id.`,
]

function isKind(text: string): text is Outcome['kind'] {
  return Object.hasOwn(words, text)
}

function cell(outcome: Outcome | undefined, notes: Notes): string {
  if (outcome === undefined) return NOT_RUN
  return outcome.reason === '' ? words[outcome.kind] : `${words[outcome.kind]}${notes.reference(outcome.reason)}`
}

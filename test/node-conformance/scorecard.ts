/** docs/node-conformance.md: what passed by group, and every spec that did not, runc beside us. The same results make the same text. */
import { Notes, table } from '#test/conformance/card.ts'
import type { Outcome, Results } from './results.ts'
import { whyElse, whyNot } from './scope.ts'
import type { Spec } from './suite.ts'

type Word = Outcome['kind'] | 'not-applicable' | 'not-run'

const words: Readonly<Record<Word, string>> = {
  pass: 'pass',
  fail: '**fail**',
  skip: 'skipped',
  'not-applicable': 'does not apply',
  'not-run': 'not run',
}

const kinds = ['pass', 'fail', 'skip', 'not-applicable', 'not-run'] as const

export function scorecard(release: string, specs: readonly Spec[], all: readonly Results[]): string {
  const notes = new Notes()
  const counts = all.map((results) => [results.handler, ...kinds.map((kind) => String(specs.filter((spec) => wordOf(spec, results) === kind).length))])
  const groups = [...Map.groupBy(specs, ({ group }) => group)].map(([group, members]) => [
    group,
    String(members.length),
    ...all.map((results) => passed(members, results)),
  ])
  const others = specs.filter((spec) => all.some((results) => !['pass', 'not-run'].includes(wordOf(spec, results))))
  const rows = others.map((spec) => [`${spec.group}: ${spec.name}`, ...all.map((results) => cell(spec, results, notes))])
  const versions = Object.entries(Object.assign({}, ...all.map(({ versions }) => versions))).map(([name, version]) => `${name} ${String(version)}`)
  const handlers = all.map(({ handler }) => handler)
  return `${[
    '# Node conformance',
    `What Kubernetes' own node conformance suite ${release} (\`test/e2e_node\`, label \`NodeConformance\` without \`Serial\` and \`Flaky\`) says
when every pod of it is a microVM, and when it is runc's: the same kubelet, containerd and images. Written by \`make node-conformance\`.`,
    `Run with ${versions.join(', ')}; each spec by itself, once.`,
    table(['handler', ...kinds.map((kind) => words[kind].replaceAll('*', ''))], counts),
    explanation,
    '## Passed, of those that ran, by group',
    table(['group', 'specs', ...handlers], groups),
    '## What did not pass',
    table(['spec', ...handlers], rows),
    notes.text(),
    ...notRun(specs, all),
  ].join('\n\n')}\n`
}

const explanation = `- **does not apply** is ours, for what is of the host's kernel alone. Such pods are refused with an error that names the field.
- **fail** and **skipped** are the suite's words. The command fails with every failure of a sandbox but those that
  \`test/node-conformance/scope.ts\` explains.
- Pods get the runtime class by a MutatingAdmissionPolicy, which also puts its overhead on them; static pods by containerd's default.
- No registry is reached: images are built here from Debian's static busybox and \`agnhost\`, the suite's own program, and pulled from a
  registry on the node's loopback by the names that the suite has for them.`

export function wordOf(spec: Spec, { handler, outcomes }: Results): Word {
  if (handler !== 'runc' && whyNot(spec) !== undefined) return 'not-applicable'
  return outcomes[spec.text]?.kind ?? 'not-run'
}

function cell(spec: Spec, results: Results, notes: Notes): string {
  const word = wordOf(spec, results)
  const reason = word === 'not-applicable' ? whyNot(spec) : reasonOf(spec, results)
  return reason === undefined ? words[word] : `${words[word]}${notes.reference(reason)}`
}

function reasonOf(spec: Spec, { handler, outcomes }: Results): string | undefined {
  const found = outcomes[spec.text]
  if (found === undefined || found.kind === 'pass') return undefined
  return whyElse(spec, handler, found.message) ?? found.message
}

/** Of those that ran. */
function passed(specs: readonly Spec[], results: Results): string {
  const found = specs.map((spec) => wordOf(spec, results))
  const ran = found.filter((word) => !['not-applicable', 'not-run'].includes(word))
  return ran.length === 0 ? '—' : `${ran.filter((word) => word === 'pass').length} of ${ran.length}`
}

/** Which specs no sandbox was asked. */
function notRun(specs: readonly Spec[], all: readonly Results[]): string[] {
  return all.filter(({ handler }) => handler !== 'runc').flatMap((results) => {
    const left = specs.filter((spec) => wordOf(spec, results) === 'not-run')
    const groups = [...Map.groupBy(left, ({ group }) => group)].map(([group, members]) => {
      const whole = members.length === specs.filter((spec) => spec.group === group).length
      return `- ${group}: ${whole ? `all ${members.length}` : members.map(({ name }) => name).join('; ')}`
    })
    return left.length === 0 ? [] : [`## Not run on ${results.handler}`, groups.join('\n')]
  })
}

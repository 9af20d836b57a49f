/** What the scorecard makes of critest's reports. */
import { writeFileSync } from 'node:fs'
import { execaSync } from 'execa'
import t from 'tap'
import { readReport, type Spec } from '#test/conformance/critest.ts'
import { focusOn } from '#test/conformance/ginkgo.ts'
import { runAll } from '#test/conformance/handler.ts'
import { criImages, digestOfDigestImage } from '#test/conformance/images.ts'
import { outcomeOf, sandboxOutcome, worst, type Outcome, type Results } from '#test/conformance/results.ts'
import { whyNot } from '#test/conformance/scope.ts'
import { claims, runsClaimed, scorecard } from '#test/conformance/scorecard.ts'
import { ociStore } from '#test/images/oci.ts'
import { lackOfGo } from '../../tools/go.ts'

/** As ginkgo 2.28 writes it, without what is not read. */
const report = (leaf: string, state: string, message?: string) => ({
  ContainerHierarchyTexts: ['[k8s.io] Streaming', 'runtime should support streaming interfaces'],
  LeafNodeType: 'It',
  LeafNodeText: leaf,
  State: state,
  ...(message === undefined ? {} : { Failure: { Message: message, TimelineLocation: {} } }),
})

const json = JSON.stringify([
  {
    SuiteSucceeded: false,
    SpecReports: [
      { ContainerHierarchyTexts: null, LeafNodeType: 'BeforeSuite', LeafNodeText: '', State: 'passed' },
      report('runtime should support attach [Conformance]', 'passed'),
      report('runtime should support exec (tty)', 'failed', 'dial 10.89.0.7\n  in pod 7c5d3b0e-9a40-4b7e-8f44-0123456789ab'),
      report('runtime should support portforward', 'skipped', 'AppArmor is disabled on this host'),
      report('runtime should support resize', 'skipped'),
      report('runtime should support detach', 'interrupted'),
    ],
  },
])
const reports = readReport(json)
const specs = reports.map(({ spec }) => spec)

t.test('specs are the leaves of a report, named without marks', async (t) => {
  t.equal(reports.length, 5)
  t.same(specs[0], {
    group: 'Streaming',
    name: 'runtime should support streaming interfaces: runtime should support attach',
    text: '[k8s.io] Streaming runtime should support streaming interfaces runtime should support attach [Conformance]',
    serial: false,
  })
  t.throws(() => readReport('{}'), 'a report is a list of suites')
})

t.test('what became of a spec', async (t) => {
  const kinds = specs.map((spec) => outcomeOf(spec, reports).kind)
  t.same(kinds, ['pass', 'fail', 'skip', 'fail', 'fail'], 'a skip without a reason is a spec that was not reached')
  const missing: Spec = { group: 'x', name: 'y', text: 'x y', serial: false }
  t.match(outcomeOf(missing, reports), { kind: 'fail', reason: /ended before/ })
  t.match(outcomeOf(specs[2]!, reports), { kind: 'skip', known: true, reason: /: the machine this ran on$/ })
})

function propagation(word: string, state: string, message: string) {
  const spec: Spec = { group: 'Container Mount Propagation', name: `x: mount with '${word}' should`, text: word, serial: false }
  return sandboxOutcome(spec, outcomeOf(spec, [{ spec, state, message, seconds: 1 }]))
}

t.test('a failure or a skip that nobody has explained makes a run fail, and so does an explanation that is out of date', async (t) => {
  t.match(propagation('rshared', 'failed', 'mount /mnt asks for rshared propagation, which'), { kind: 'fail', known: true, reason: /cannot appear on the host/ })
  t.match(propagation('rshared', 'failed', 'the node is on fire'), { kind: 'fail', known: false, reason: 'the node is on fire' })
  t.match(propagation('rshared', 'passed', ''), { kind: 'fail', known: false, reason: /scope\.ts says/ })
  t.match(propagation('rslave', 'failed', 'mount /mnt asks for rshared propagation, which'), { kind: 'fail', known: false })
  t.match(propagation('rslave', 'skipped', 'no reason to speak of'), { kind: 'skip', known: false })
  t.match(propagation('rslave', 'passed', ''), { kind: 'pass', known: true })
})

t.test('what failed is tried once more, alone, and only so much of it; what is known to fail is not', async (t) => {
  const specs = ['a', 'b', 'c', 'd', 'rshared'].map((word): Spec => ({ group: 'Container Mount Propagation', name: `x: mount with '${word}' should`, text: word, serial: false }))
  const calls: string[][] = []
  const run = {
    async specs(batch: readonly Spec[]) {
      const again = calls.push(batch.map(({ text }) => text)) > 1
      return batch.map((spec) => ({
        spec,
        state: spec.text === 'a' || (spec.text === 'b' && again) ? 'passed' : 'failed',
        message: spec.text === 'rshared' ? 'mount /mnt asks for rshared propagation' : 'too late',
        seconds: 1,
      }))
    },
  }
  const found: unknown[] = []
  const record = ({ text }: Spec, { kind, known, firstTry }: Outcome) => void found.push([text, kind, known, firstTry])
  await runAll(run, { handler: 'kuasar-qemu', specs, lanes: 2, record, secondTriesMax: 2 })
  t.same(calls, [['a', 'b', 'c', 'd', 'rshared'], ['b'], ['c']])
  t.same(found, [['a', 'pass', true, undefined], ['d', 'fail', false, undefined], ['rshared', 'fail', true, undefined], ['b', 'pass', true, 'too late'], ['c', 'fail', false, 'too late']])
})

t.test('a focus selects its specs and no other', async (t) => {
  const pattern = new RegExp(focusOn(specs.slice(0, 2)))
  t.same(specs.map(({ text }) => pattern.test(`CRI validation ${text}`)), [true, true, false, false, false])
})

const outcome = (kind: Outcome['kind'], known: boolean): Outcome => ({ kind, reason: '', known, seconds: 1 })

t.test('of several runs a spec has the worst that nobody has explained', async (t) => {
  const [pass, fail, skip] = [outcome('pass', true), outcome('fail', false), outcome('skip', true)]
  t.equal(worst(undefined, pass), pass)
  t.equal(worst(pass, fail), fail)
  t.equal(worst(fail, pass), fail)
  t.equal(worst(skip, skip), skip)
})

t.test('the same results make the same card, whatever ids and times are in them', async (t) => {
  const results = (handler: string, id: string): Results => ({
    handler,
    runs: 10,
    versions: { containerd: '2.1.9' },
    outcomes: Object.fromEntries(
      specs.map((spec) => {
        const outcome = outcomeOf(spec, reports)
        return [spec.text, { ...outcome, reason: outcome.reason.replace('7c5d3b0e', id) }]
      }),
    ),
  })
  const card = scorecard('v1', specs, [results('runc', '7c5d3b0e'), results('kuasar-qemu', '00000000')])
  t.equal(card, scorecard('v1', specs, [results('runc', 'ffffffff'), results('kuasar-qemu', 'ffffffff')]))
  t.match(card, /\| kuasar-qemu \| 10 \| 1 \| 3 \| 1 \| 0 \| 0 \|/)
  t.equal(runsClaimed(card, 'kuasar-qemu'), 10)
  t.ok(Number.isNaN(runsClaimed(card, 'kuasar-fake')) && Number.isNaN(runsClaimed(card.replaceAll('whole runs', 'else'), 'runc')), 'what it does not say is no number')
  t.match(card, /\| runtime should support streaming interfaces: runtime should support exec \(tty\) \| \*\*fail\*\* \[1\] \| \*\*fail\*\* \[1\] \|/)
  t.match(card, /^1\. dial POD in pod UUID$/m, 'a reason is given once')
  t.same([...claims(card, 'kuasar-qemu').values()], ['pass', '**fail**', 'skipped', '**fail**', '**fail**'], 'and can be read again')
  t.same([...claims(card, 'kuasar-qemu').keys()], specs.map(({ group, name }) => `${group}: ${name}`))
  t.match(scorecard('v1', specs, [{ ...results('runc', ''), outcomes: {} }]), /\*\*not run\*\*/)
})

const spec = (group: string, name: string): Spec => ({ group, name, text: `${group} ${name}`, serial: false })

t.test('what does not apply has a reason; all else applies', async (t) => {
  t.match(whyNot(spec('AppArmor', 'anything')), /kernel/)
  t.match(whyNot(spec('Security Context', 'NamespaceOption: runtime should support HostNetwork is true')), /sockets/)
  t.equal(whyNot(spec('Security Context', 'NamespaceOption: runtime should support HostNetwork is false')), undefined)
  t.equal(whyNot(spec('Security Context', 'NamespaceOption: runtime should support HostIpc is false')), undefined)
  t.equal(whyNot(spec('Streaming', 'runtime should support streaming interfaces: runtime should support portforward')), undefined)
  for (const word of ['rslave', 'rshared']) t.equal(whyNot(spec('Container Mount Propagation', `x: mount with '${word}' should`)), undefined)
})

t.test('images: tags of one image share it, all others differ, and the digest needs no busybox', async (t) => {
  const images = criImages(Buffer.from('busybox'), ['sh'], { sh: Buffer.from('sh'), nonewprivs: Buffer.from('nnp'), webserver: Buffer.from('web') })
  const { manifests } = ociStore(images)
  const digests = new Map(images.map(({ reference }, index) => [reference, manifests[index]?.digest]))
  const tags = ['1', '2', '3'].map((tag) => digests.get(`k8s-staging-cri-tools/test-image-tags:${tag}`))
  t.equal(new Set(tags).size, 1)
  t.equal(new Set(digests.values()).size, images.length - 2)
  t.equal(digests.get('k8s-staging-cri-tools/test-image-digest:latest'), digestOfDigestImage())
})

t.test('the shell of the image names itself and the command it may not run', async (t) => {
  const source = new URL('../conformance/programs/sh.c', import.meta.url).pathname
  const directory = t.testdir({})
  const shell = `${directory}/sh`
  execaSync('cc', ['-D_GNU_SOURCE', '-Wall', '-Werror', '-o', shell, source])
  const run = (word: string) => execaSync(shell, ['-c', word], { reject: false })
  t.match(run('/etc/passwd'), { exitCode: 126, stderr: `${shell}: /etc/passwd: Permission denied` })
  t.match(run('no-such-command'), { exitCode: 127, stderr: `${shell}: no-such-command: No such file or directory` })
  t.equal(run('pwd').stdout, process.cwd())
})

t.test('a Go that is too old is a Go that is lacking, and both versions are named', async (t) => {
  const module = t.testdir({ 'go.mod': 'module x\n\ngo 1.26.2\n', bin: {} })
  const path = process.env['PATH']
  t.teardown(() => {
    process.env['PATH'] = path
  })
  process.env['PATH'] = `${module}/bin`
  /** What is lacking beside a Go of which this is all. */
  const beside = (script: string) => {
    writeFileSync(`${module}/bin/go`, `#!/bin/sh\n${script}\n`, { mode: 0o755 })
    return lackOfGo(module)
  }
  const version = (version: string) => beside(`echo go version go${version} linux/amd64`)
  for (const old of ['1.19.8', '1.26', '1.26.1', '1.9.12']) t.equal(version(old), `Go 1.26.2 or newer, found ${old}`)
  for (const good of ['1.26.2', '1.26.10', '1.27', '2.0']) t.equal(version(good), undefined, good)
  t.equal(beside('echo no toolchain >&2; exit 1'), 'Go 1.26.2 or newer, found "no toolchain"')
  process.env['PATH'] = module
  t.equal(lackOfGo(module), 'Go 1.26.2 or newer, found none')
})

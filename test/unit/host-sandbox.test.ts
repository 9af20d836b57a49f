import t from 'tap'
import { cleanLines } from '#host/sandbox/console.ts'
import { negotiate } from '#host/sandbox/handshake.ts'
import { unobserved } from '#host/sandbox/observer.ts'
import { actOnAll, compare, Suspicions, type Finding, type Known, type Seen } from '#host/sandbox/reconcile.ts'
import { allows, containerdState, mayBecome, type StateKind } from '#host/sandbox/state.ts'
import { guestSpans, Trace } from '#host/sandbox/trace.ts'
import { silentLog } from '#shared/log.ts'

const SETTLE_MS = 1_000
const kinds: readonly StateKind[] = ['created', 'starting', 'ready', 'stopping', 'stopped', 'gone', 'adopting']

t.test('states', async (t) => {
  t.same(kinds.filter((kind) => mayBecome(kind, 'ready')), ['starting', 'adopting'])
  t.same(kinds.filter((kind) => mayBecome(kind, 'gone')), ['starting', 'stopped', 'adopting'])
  t.same(kinds.filter((kind) => mayBecome('gone', kind)), [], 'nothing comes back')
  t.same(kinds.filter((kind) => allows('start', kind)), ['created'])
  t.same(kinds.filter((kind) => allows('prepare', kind)), ['ready'])
  t.same(kinds.filter((kind) => containerdState(kind) === 'SANDBOX_READY'), ['ready'])
})

t.test('protocol versions', async (t) => {
  t.equal(negotiate(1), 1)
  t.equal(negotiate(7), 1, 'a newer agent speaks ours')
  t.throws(() => negotiate(0), { code: 'FAILED_PRECONDITION', message: /agent speaks kuasar.host version 0; this sandboxer speaks 1 to 1: use a guest image/ })
})

t.test('a guest’s marks become spans on the host’s clock', async (t) => {
  const marks = [{ name: 'init', boottimeNanos: 1_000_000_000n }, { name: 'agent', boottimeNanos: 1_500_000_000n }]
  const spans = guestSpans(marks, 2_000_000_000n, 10_000, 0, true)
  t.same(spans.map(({ name, startMs, endMs }) => [name, startMs, endMs]), [
    ['guest.kernel', 8000, 9000],
    ['guest.init', 9000, 9500],
    ['guest.agent', 9500, 10_000],
  ])
  const wild = [{ name: '\x1b[31m\n', boottimeNanos: 0n }, { name: 'late', boottimeNanos: 9_999_999_999n }]
  for (const { name, startMs, endMs } of guestSpans(wild, 1_000_000_000n, 10_000, 9_500, true)) {
    t.match(name, /^guest\.[\w.?-]+$/)
    t.ok(startMs >= 9_500 && endMs <= 10_000 && startMs <= endMs, 'within what the host has seen')
  }
})

t.test('a trace is bounded', async (t) => {
  const trace = new Trace()
  for (let index = 0; index < 500; index++) trace.add({ name: `s${index}`, startMs: 0, endMs: 1, source: 'x' })
  trace.startIsOver()
  for (let index = 0; index < 500; index++) trace.add({ name: `c${index}`, startMs: 0, endMs: 1, source: 'x' })
  t.equal(trace.spans.length, 256)
  t.equal(trace.spans[0]?.name, 's0', 'the start is kept')
  t.equal(trace.spans.at(-1)?.name, 'c499', 'and the latest')
  t.equal(new Trace(trace.spans).spans.length, 256, 'as it was after a restart')
})

t.test('a console’s lines drive no terminal', async (t) => {
  t.same(cleanLines('\x1b[2J\x1b[31mred\x1b[0m\r\n\x07bell\n\n\x9b31mC1\ttab  \n'), ['red', 'bell', '31mC1\ttab'])
})

const seen = (changes: Partial<Seen> = {}): Seen => ({ id: 's', inNamespace: true, guestTasks: [], containers: [], ...changes })
const known = (changes: Partial<Record<keyof Known, string[]>> = {}): Known => ({
  sandboxes: new Set(changes.sandboxes ?? ['s']),
  tasks: new Set(changes.tasks ?? []),
  containers: new Set(changes.containers ?? []),
})

t.test('three lists', async (t) => {
  const task = { containerId: 'c', pid: 7, status: 'running' }
  t.same(compare([seen()], known()), [])
  t.same(compare([seen()], known({ sandboxes: [] })), [{ kind: 'forgotten-sandbox', sandboxId: 's' }])
  t.same(compare([seen({ inNamespace: false })], known({ sandboxes: [] })), [], 'another namespace’s store cannot be asked')
  t.same(compare([seen({ guestTasks: [task], containers: ['c'] })], known({ tasks: ['c'] })), [])
  t.same(compare([seen({ guestTasks: [task], containers: ['c'] })], known({ containers: ['c'] })), [
    { kind: 'stray-task', sandboxId: 's', containerId: 'c', pid: 7 },
  ], 'a container whose task containerd lost')
  t.same(compare([seen({ containers: ['c'] })], known({ containers: ['c'] })), [], 'between prepare and task')
  t.same(compare([seen({ containers: ['c'] })], known()), [{ kind: 'unreleased-container', sandboxId: 's', containerId: 'c' }])
  t.same(compare([seen({ guestTasks: undefined, containers: ['c'] })], known()), [], 'a guest that does not answer proves nothing')
})

t.test('a difference is acted on when it lasts', async (t) => {
  const finding: Finding = { kind: 'stray-task', sandboxId: 's', containerId: 'c', pid: 7 }
  const suspicions = new Suspicions(SETTLE_MS)
  t.same(suspicions.confirm([finding], 0), [], 'seen once')
  t.same(suspicions.confirm([finding], SETTLE_MS - 1), [], 'seen twice, too soon')
  t.same(suspicions.confirm([finding], SETTLE_MS), [finding])
  t.same(suspicions.confirm([], SETTLE_MS * 2), [])
  t.same(suspicions.confirm([finding], SETTLE_MS * 3), [], 'gone in between: it starts anew')
  t.same(suspicions.confirm([{ ...finding, pid: 8 }], SETTLE_MS * 5), [], 'another process is another finding')
})

t.test('a sandbox that does not end holds up no round', async (t) => {
  // The round's own timer keeps no process alive.
  const alive = setInterval(() => {}, 1000)
  t.teardown(() => clearInterval(alive))
  const asked: string[] = []
  const never = { state: { kind: 'created' }, shutdown: () => new Promise<void>(() => asked.push('never')) } as const
  const findings = ['a', 'b'].map((sandboxId): Finding => ({ kind: 'forgotten-sandbox', sandboxId }))
  await actOnAll(findings, () => never, silentLog, unobserved, 10)
  t.same(asked, ['never', 'never'])
})

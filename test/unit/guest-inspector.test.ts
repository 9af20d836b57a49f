/** Looking into a running agent: by V8's own inspector, in the process that is looked into. */
import t from 'tap'
import { DUMP_BYTES_MAX, evaluate, EXPRESSION_LENGTH_MAX, profile, PROFILE_MS_MAX, TEXT_LENGTH_MAX } from '#guest/debug/inspector.ts'

const forever = new AbortController().signal

class Part {
  readonly #entries = new Map([['a', { pid: 7 }]])
  readonly #name = 'inner'
  readonly size = 1

  entry(id: string) {
    return `${this.#name} ${this.#entries.get(id)?.pid}`
  }
}

const names = { agent: { part: new Part() } }
const run = (expression: string, signal = forever) => evaluate(expression, names, signal)
const value = async (expression: string) => (await run(expression)).text

async function whole(pieces: AsyncIterable<Buffer>) {
  const all = await Array.fromAsync(pieces)
  return { text: Buffer.concat(all).toString(), largest: Math.max(...all.map((piece) => piece.length)) }
}

t.test('a value is printed as Node\'s console would, a string as it is', async (t) => {
  t.same(await run('1 + 1'), { text: '2', threw: false })
  t.equal(await value('"two\\nlines"'), 'two\nlines')
  t.equal(await value('({ a: [1, { b: null }], f() {} })'), '{ a: [ 1, { b: null } ], f: [Function: f] }')
  for (const [expression, text] of [['undefined', 'undefined'], ['null', 'null'], ['10n', '10n'], ['-0', '-0'], ['Symbol("s")', 'Symbol(s)'], ['() => 1', '[Function (anonymous)]'], ['', 'undefined']] as const) {
    t.equal(await value(expression), text, expression)
  }
})

t.test('the agent\'s parts have names, and their private fields can be read', async (t) => {
  t.equal(await value('agent.part.entry("a")'), 'inner 7')
  t.equal(await value('agent.part.#entries.get("a")'), '{ pid: 7 }')
  t.equal(await value('agent.part'), 'Part { size: 1 }\n  #entries: Map(1)\n  #name: inner')
  t.equal(await value('require("node:os").EOL'), '\n')
  t.equal(await value('typeof require("tap")'), 'undefined', 'modules of Node\'s alone')
})

t.test('declarations stay, and may be made again; what is awaited comes', async (t) => {
  await run('let found = 1')
  await run('let found = agent.part.size + 1')
  t.equal(await value('found'), '2')
  t.equal(await value('await new Promise((done) => setTimeout(done, 5, found))'), '2')
})

t.test('an error is its stack, down to the expression', async (t) => {
  t.same(await run('throw new Error("no")'), { text: 'Error: no\n    at <anonymous>:1:7', threw: true })
  t.same(await run('await Promise.reject(new RangeError("far"))'), { text: 'RangeError: far\n    at <anonymous>:1:22', threw: true })
  t.match(await run('function deep() { null.x }; deep()'), { text: /^TypeError: .*\n {4}at deep .*\n {4}at <anonymous>:1:\d+$/, threw: true })
  t.same(await run('1 +'), { text: 'SyntaxError: Unexpected end of input', threw: true })
  t.same(await run('throw "plain"'), { text: 'plain', threw: true })
})

t.test('limits: of the expression, its answer, and its time', async (t) => {
  await t.rejects(run(' '.repeat(EXPRESSION_LENGTH_MAX + 1)), { code: 'INVALID_ARGUMENT', message: /65537 characters: expected 65536 at most/ })
  const long = await value(`"x".repeat(${TEXT_LENGTH_MAX + 5})`)
  t.equal(long, `${'x'.repeat(TEXT_LENGTH_MAX)}… 5 more characters`)
  await t.rejects(evaluate('for (;;);', names, forever, 50), { code: 'DEADLINE_EXCEEDED', message: /ran for 50 ms without an await/ })
  t.equal(await value('1'), '1', 'and nothing is left of it')
  const patience = new AbortController()
  const waiting = run('await new Promise(() => {})', patience.signal)
  patience.abort(new RangeError('enough'))
  await t.rejects(waiting, new RangeError('enough'))
})

t.test('a profile names what ran', async (t) => {
  const busy = setInterval(function spinsForTheProfile() {
    for (const end = performance.now() + 5; performance.now() < end; );
  }, 6)
  const { text, largest } = await whole(profile(200, forever))
  clearInterval(busy)
  const { nodes, samples }: { nodes: { callFrame: { functionName: string } }[]; samples: number[] } = JSON.parse(text)
  t.ok(nodes.some(({ callFrame }) => callFrame.functionName === 'spinsForTheProfile'))
  t.ok(samples.length > 10)
  t.ok(largest <= DUMP_BYTES_MAX)
  for (const ms of [0, PROFILE_MS_MAX + 1]) await t.rejects(whole(profile(ms, forever)), { code: 'INVALID_ARGUMENT', message: /expected 1 to 60000/ })
  const impatient = AbortSignal.timeout(1)
  await t.rejects(whole(profile(PROFILE_MS_MAX, impatient)), { name: 'AbortError' })
})

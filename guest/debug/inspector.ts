/**
 * Looking into the agent while it runs: JavaScript in its own heap, a profile of what it does, the heap as a file. It is V8's
 * inspector, asked within the process. It has no port: the pod's containers share the guest's network, and whoever reaches an
 * inspector's port may do what the agent may. And it has no breakpoints: an agent that stands still answers nobody, and is ended
 * for it. Nothing is loaded, and nothing slower, before somebody asks.
 */
import { setTimeout } from 'node:timers/promises'
import { abortable } from '#shared/abortable.ts'
import { RuntimeError } from '#shared/errors.ts'
import { isErrno } from '#shared/os/error.ts'

/** Of an expression, in UTF-16 units. */
export const EXPRESSION_LENGTH_MAX = 64 * 1024

/** Of what is answered, in UTF-16 units: in UTF-8 it is less than the largest message a guest may send. */
export const TEXT_LENGTH_MAX = 64 * 1024

/** For what an expression does before its first `await`, in ms. Nothing else is answered meanwhile; a heartbeat waits 10 s. */
const RUN_MS_MAX = 5_000

export const PROFILE_MS_MAX = 60_000

/** Of one piece of a file. */
export const DUMP_BYTES_MAX = 64 * 1024

/** Under which a function that V8 is handed as text finds the one that prints. */
const PRINT = 'kuasar.debug.print'
const callPrint = `function () { return globalThis[Symbol.for('${PRINT}')](this) }`

/** What there is on globalThis for an expression, beside what JavaScript and Node have there. */
export interface Names {
  /** The agent's parts, by name. */
  readonly agent: Readonly<Record<string, unknown>>
}

export interface Evaluation {
  readonly text: string
  readonly threw: boolean
}

/**
 * Runs one program at the top level, as a console does: `await` and private fields (`agent.containers.#byId`) are allowed, and what
 * it declares is there for the next. An error that it throws later, from a timer, is the agent's and ends it.
 *
 * Errors: INVALID_ARGUMENT for one that is too long, DEADLINE_EXCEEDED when it runs too long, the signal's reason when what it
 * awaits does not come; it is awaited no more then, and not undone.
 */
export async function evaluate(expression: string, names: Names, signal: AbortSignal, runMsMax = RUN_MS_MAX): Promise<Evaluation> {
  if (expression.length > EXPRESSION_LENGTH_MAX) {
    throw new RuntimeError('INVALID_ARGUMENT', `an expression of ${expression.length} characters: expected ${EXPRESSION_LENGTH_MAX} at most`)
  }
  expose(names)
  using inspector = connect(signal)
  const program = { expression, replMode: true, awaitPromise: true, timeout: runMsMax }
  const answer = await inspector.ask('Runtime.evaluate', program).catch((cause: unknown) => {
    // V8's word for a program that was ended.
    if (!isErrno(cause, 'ERR_INSPECTOR_COMMAND')) throw cause
    throw new RuntimeError('DEADLINE_EXCEEDED', `the expression ran for ${runMsMax} ms without an await, and was ended`)
  })
  const result = members(answer['result'])
  if (answer['exceptionDetails'] !== undefined) return { text: cut(withoutOurFrames(described(result))), threw: true }
  const { objectId, type } = result
  if (objectId === undefined || type === 'symbol') return { text: cut(described(result)), threw: false }
  const printed = await inspector.ask('Runtime.callFunctionOn', { objectId, functionDeclaration: callPrint })
  const { privateProperties } = await inspector.ask('Runtime.getProperties', { objectId, ownProperties: true })
  return { text: cut([described(members(printed['result'])), ...privateLines(privateProperties)].join('\n')), threw: false }
}

/** A CPU profile of so many ms, in pieces. Errors: INVALID_ARGUMENT for a duration that cannot be, the signal's reason. */
export async function* profile(durationMs: number, signal: AbortSignal): AsyncGenerator<Buffer> {
  if (durationMs < 1 || durationMs > PROFILE_MS_MAX) {
    throw new RuntimeError('INVALID_ARGUMENT', `a profile of ${durationMs} ms: expected 1 to ${PROFILE_MS_MAX}`)
  }
  using inspector = connect(signal)
  await inspector.ask('Profiler.enable')
  await inspector.ask('Profiler.start')
  await setTimeout(durationMs, undefined, { signal })
  const { profile: taken } = await inspector.ask('Profiler.stop')
  yield* pieces(Buffer.from(JSON.stringify(taken)))
}

/** The heap in pieces. It is copied whole before the first, so the guest needs as much memory again. */
export async function* heapSnapshot(): AsyncGenerator<Buffer> {
  for await (const chunk of process.getBuiltinModule('node:v8').getHeapSnapshot()) yield* pieces(Buffer.from(chunk))
}

/** Disposing it ends what it has begun. */
function connect(signal: AbortSignal) {
  signal.throwIfAborted()
  const { Session } = process.getBuiltinModule('node:inspector/promises')
  const session = new Session()
  session.connect()
  return {
    /** The protocol is V8's (https://chromedevtools.github.io/devtools-protocol/v8/); Node's types have a part of it. */
    async ask(method: string, parameters: object = {}): Promise<Members> {
      return members(await abortable<unknown>(session.post(method, parameters), signal))
    },
    [Symbol.dispose]: () => session.disconnect(),
  }
}

type Members = Readonly<Record<string, unknown>>

function members(value: unknown): Members {
  return typeof value === 'object' && value !== null ? { ...value } : {}
}

/** A value of the protocol's, as text. Strings as they are. */
function described(result: Members): string {
  const { value, unserializableValue, description, type } = result
  return String(unserializableValue ?? description ?? ('value' in result ? value : type))
}

function expose({ agent }: Names): void {
  const { inspect } = process.getBuiltinModule('node:util')
  const names = {
    agent,
    require: (name: string) => process.getBuiltinModule(name),
    [Symbol.for(PRINT)]: (value: unknown) => inspect(value),
  }
  for (const key of Reflect.ownKeys(names)) {
    Object.defineProperty(globalThis, key, { value: Reflect.get(names, key), configurable: true, writable: true })
  }
}

/** inspect() does not see them, and most of what the agent knows is in them. */
function privateLines(properties: unknown): string[] {
  if (!Array.isArray(properties)) return []
  return properties.map((property: unknown) => {
    const { name, value } = members(property)
    return `  ${String(name)}: ${described(members(value)).split('\n', 1)[0]}`
  })
}

/** A stack down to where V8 was called. */
function withoutOurFrames(stack: string): string {
  return stack.replace(/\n {4}at Session\.post[\s\S]*/, '')
}

function cut(text: string): string {
  return text.length <= TEXT_LENGTH_MAX ? text : `${text.slice(0, TEXT_LENGTH_MAX)}… ${text.length - TEXT_LENGTH_MAX} more characters`
}

function* pieces(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += DUMP_BYTES_MAX) yield bytes.subarray(at, at + DUMP_BYTES_MAX)
}

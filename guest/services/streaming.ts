/**
 * containerd.services.streaming.v1.Streaming: one call is one of a process's stdin, stdout, stderr, alone on its
 * connection.
 *
 *   output:  → StreamInit     ← Empty     → WindowUpdate…   ← Data…    ← (end)   → (end)
 *   input:   → StreamInit     ← Empty     ← WindowUpdate…   → Data…    → (end)   ← (end)
 *
 * The opening is acknowledged at once: containerd opens streams before it creates the task.
 */
import { RuntimeError } from '#shared/errors.ts'
import type { AnyCodec } from '#shared/rpc/any.ts'
import type { ServiceTypesOf } from '#shared/rpc/services.ts'
import type { CallContext, Handlers } from '#shared/ttrpc/method.ts'
import type { GuestRpc } from '../rpc.ts'
import { DataEncoder } from './encoded-data.ts'
import type { StreamConnection } from './stream-connection.ts'
import { Input, type InputWriter } from '../streams/input.ts'
import type { Output } from '../streams/output.ts'
import type { OutputReader } from '../streams/reader.ts'
import { type Endpoint, STREAM_ID_LENGTH_MAX, type StreamRegistry } from '../streams/registry.ts'

type Messages = AsyncIterator<{ readonly type_url: string; readonly value: Buffer } , undefined>
type Answer = { type_url: string; value: Buffer }

/** How long a peer that has got everything may take to close its side before the connection is ended under it. */
const LINGER_MS_MAX = 10_000

/** How the id of a stream that is a process's stdin ends. */
const INPUT = '-stdin'

/** The same of its outputs. */
const OUTPUTS = ['-stdout', '-stderr']

export function createStreamingService(streams: StreamRegistry, rpc: GuestRpc, connection: StreamConnection): Handlers<ServiceTypesOf<'streaming'>> {
  const { any } = rpc
  return {
    async *Stream(requests, context) {
      connection.take()
      const messages: Messages = requests[Symbol.asyncIterator]()
      let endpoint: Endpoint
      try {
        const id = await streamId(messages, any)
        yield any.pack('google.protobuf.Empty', {})
        endpoint = await find(streams, id, context, connection)
      } catch (error) {
        // Nor will anybody come for its input, which cannot say so itself: what it is still sent is taken and dropped.
        if (error instanceof ReaderGone) streams.waiters(error.input)({ kind: 'input', input: Input.none() })
        connection.endWhenClosed(context.signal)
        connection.endAfter(LINGER_MS_MAX)
        throw error
      }
      if (endpoint.kind === 'output') yield* serveOutput(endpoint.output, messages, any, context, connection)
      else yield* serveInput(endpoint.input, messages, any, context, connection)
    },
  }
}

/**
 * A stream that waits may not be wanted any more. Of a container that is removed before its start the agent hears nothing but
 * that its output's reader has closed its side (containerd up to 2.2). An input may be complete as early as that.
 */
async function find(streams: StreamRegistry, id: string, { signal }: CallContext, connection: StreamConnection): Promise<Endpoint> {
  if (streams.has(id) || id.endsWith(INPUT)) return await streams.find(id, signal)
  signal.throwIfAborted()
  const given = new AbortController()
  const over = () => given.abort(signal.reason)
  signal.addEventListener('abort', over, { once: true })
  let waiting = true
  connection.whenPeerClosed(() => {
    if (waiting) given.abort(new ReaderGone(id))
  })
  try {
    return await streams.find(id, given.signal)
  } finally {
    waiting = false
    signal.removeEventListener('abort', over)
  }
}

/** Nobody waits for the process of this output any more. */
class ReaderGone extends RuntimeError {
  /** Id of the same process's stdin. */
  readonly input: string

  constructor(id: string) {
    super('CANCELLED', `the reader of ${JSON.stringify(id)} went before its process came`)
    const end = OUTPUTS.find((ending) => id.endsWith(ending))
    this.input = end === undefined ? id : `${id.slice(0, -end.length)}${INPUT}`
  }
}

async function streamId(messages: Messages, any: AnyCodec): Promise<string> {
  const first = await messages.next()
  if (first.done === true) throw new RuntimeError('INVALID_ARGUMENT', 'the stream ended before it was named by a StreamInit')
  const { id } = any.unpack(first.value, 'containerd.services.streaming.v1.StreamInit')
  if (id === '' || id.length > STREAM_ID_LENGTH_MAX) {
    throw new RuntimeError('INVALID_ARGUMENT', `a stream id of ${id.length} characters: expected 1 to ${STREAM_ID_LENGTH_MAX}`)
  }
  return id
}

/** The output keeps its reader beyond the last byte, until the peer confirms it or is gone. */
async function* serveOutput(
  output: Output, messages: Messages, any: AnyCodec, { signal }: CallContext, connection: StreamConnection,
): AsyncGenerator<Answer> {
  const reader = output.attach(signal)
  connection.whenOver(() => reader.detach())
  void receiveWindow(messages, any, reader)
  const encoder = new DataEncoder()
  try {
    for (let data = await reader.next(); data !== undefined; data = await reader.next()) yield encoder.encode(data)
  } catch (error) {
    reader.detach()
    connection.endAfter(LINGER_MS_MAX)
    throw error
  }
  connection.whenPeerClosed(() => reader.confirm())
  connection.endWhenClosed(signal)
  void output.delivered.then(() => connection.endAfter(LINGER_MS_MAX))
}

/** The reader's half-close only says that no updates will come; what is left of the window may still be used. */
async function receiveWindow(messages: Messages, any: AnyCodec, reader: OutputReader): Promise<void> {
  try {
    for (let next = await messages.next(); next.done !== true; next = await messages.next()) {
      reader.grant(any.unpack(next.value, 'containerd.types.transfer.WindowUpdate').update)
    }
  } catch (error) {
    reader.fail(error)
  }
}

async function* serveInput(
  input: Input, messages: Messages, any: AnyCodec, { signal }: CallContext, connection: StreamConnection,
): AsyncGenerator<Answer> {
  const writer = input.attach(signal)
  void receiveData(messages, any, writer)
  void input.discarded.then(() => connection.endAfter(LINGER_MS_MAX))
  try {
    for (let update = await writer.nextCredit(); update !== undefined; update = await writer.nextCredit()) {
      yield any.pack('containerd.types.transfer.WindowUpdate', { update })
    }
  } finally {
    connection.endWhenClosed(signal)
  }
}

/** The writer stays until all that came is written: a connection may end while the process is slow to read. */
async function receiveData(messages: Messages, any: AnyCodec, writer: InputWriter): Promise<void> {
  try {
    for (let next = await messages.next(); next.done !== true; next = await messages.next()) {
      const { data } = any.unpack(next.value, 'containerd.types.transfer.Data')
      // The bytes alias the connection's read buffer, and the pipe may keep them longer.
      await writer.write(Buffer.from(data))
    }
    writer.end()
  } catch (error) {
    writer.fail(error)
  } finally {
    writer.detach()
  }
}

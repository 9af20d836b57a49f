/**
 * The shapes a ttrpc service is described and served in.
 *
 * A method is grpc-js's MethodDefinition, so what @grpc/proto-loader makes of a .proto file serves grpc-js and
 * ttrpc alike. The kind of a call is in the type: a service map names each method's kind, input and output.
 */

/** One method of a service, as @grpc/proto-loader describes it. */
export interface MethodDefinition<I, O> {
  /** `/package.Service/Method` */
  readonly path: string
  readonly requestStream: boolean
  readonly responseStream: boolean
  readonly requestSerialize: (value: I) => Buffer
  readonly requestDeserialize: (bytes: Buffer) => I
  readonly responseSerialize: (value: O) => Buffer
  readonly responseDeserialize: (bytes: Buffer) => O
}

export type CallKind = 'unary' | 'client-stream' | 'server-stream' | 'bidi'

/**
 * The types of one method. What a sender must give (`In`, `Out`: every field optional) differs from what a receiver
 * gets (`InRead`, `OutRead`: defaults filled in), as in proto-loader's generated types.
 */
export interface MethodTypes {
  readonly kind: CallKind
  readonly in: unknown
  readonly inRead: unknown
  readonly out: unknown
  readonly outRead: unknown
}

/** Method name → its types. A `type` (not an interface) in the generated layer. */
export type ServiceTypes = Record<string, MethodTypes>

/** A service with its types attached; the only value both sides need. Names are the wire's ("Create"). */
export interface Service<T extends ServiceTypes> {
  /** `package.Service` */
  readonly name: string
  readonly methods: { readonly [K in keyof T]: MethodDefinition<unknown, unknown> }
  /** Carries `T`; never read. */
  readonly types?: T
}

/** Request metadata: one key may come several times. */
export type Metadata = Readonly<Record<string, readonly string[]>>

/** What a handler knows of its call. */
export interface CallContext {
  /** Aborted at the deadline, when the connection ends, and when the call is over. */
  readonly signal: AbortSignal
  readonly metadata: Metadata
  /** Milliseconds since the epoch; undefined without a timeout. */
  readonly deadlineMs: number | undefined
}

export interface CallOptions {
  /** Gives the call up here; ttrpc has no way to tell the peer. */
  readonly signal?: AbortSignal | undefined
  /** Relative, in milliseconds; the peer is told. Without it a call waits until its connection ends. */
  readonly timeoutMs?: number | undefined
  readonly metadata?: Metadata | undefined
}

type Handler<M extends MethodTypes> = M['kind'] extends 'unary'
  ? (request: M['inRead'], context: CallContext) => Promise<M['out']> | M['out']
  : M['kind'] extends 'client-stream'
    ? (requests: AsyncIterable<M['inRead']>, context: CallContext) => Promise<M['out']>
    : M['kind'] extends 'server-stream'
      ? (request: M['inRead'], context: CallContext) => AsyncIterable<M['out']>
      : (requests: AsyncIterable<M['inRead']>, context: CallContext) => AsyncIterable<M['out']>

/**
 * What a server implements. A stream's answer is an async iterable: the next item is pulled when the connection
 * has room, returning half-closes the stream, throwing sends the error's status. A service may be served in part;
 * the rest answers Unimplemented.
 */
export type Handlers<T extends ServiceTypes> = { readonly [K in keyof T]?: Handler<T[K]> }

type Call<M extends MethodTypes> = M['kind'] extends 'unary'
  ? (request: M['in'], options?: CallOptions) => Promise<M['outRead']>
  : M['kind'] extends 'client-stream'
    ? (requests: AsyncIterable<M['in']>, options?: CallOptions) => Promise<M['outRead']>
    : M['kind'] extends 'server-stream'
      ? (request: M['in'], options?: CallOptions) => AsyncIterable<M['outRead']>
      : (requests: AsyncIterable<M['in']>, options?: CallOptions) => AsyncIterable<M['outRead']>

/**
 * What a client calls. A call is sent when it is made, also one whose answer is a stream. Breaking out of a stream's
 * iteration gives the call up here; the protocol has no way to tell the peer.
 */
export type Calls<T extends ServiceTypes> = { readonly [K in keyof T]: Call<T[K]> }

/**
 * Turns any pollable descriptor into a `net.Socket`. Node wraps only descriptors whose kind it knows (AF_VSOCK and a
 * pty master are not among them), but libuv's pipe handle reads and writes anything. Its class is not exported by
 * Node; a socket that was told to connect to a path has one.
 *
 * This is the only undocumented API that the project uses. It is checked on first use, and the error names the Node
 * version, so a Node that changes it is found out at start-up and not in the middle of a stream.
 */
import { Socket, type SocketConstructorOpts } from 'node:net'
import { getSystemErrorName } from 'node:util'
import { OsError } from './error.ts'

/** What is used of libuv's pipe handle. `open` answers 0 or a negative errno. */
interface PipeHandle {
  open(fd: number): number
}

type PipeClass = new (type: number) => PipeHandle

/** `PipeConstants.SOCKET`: a connection, as opposed to a server (1) or a channel that passes handles (2). */
const PIPE_SOCKET = 0

let pipeClass: PipeClass | undefined

/**
 * Options for a `net.Socket` that owns `fd`: closing the socket closes it. Errors: ENOTSUP on an unfit Node, and what
 * libuv says of an unfit descriptor; `fd` is then still the caller's.
 */
export function socketOptions(fd: number, options: SocketConstructorOpts = {}): SocketConstructorOpts {
  pipeClass ??= findPipeClass()
  const handle = new pipeClass(PIPE_SOCKET)
  const status = handle.open(fd)
  if (status === 0) {
    const all = { ...options }
    // Node passes its own handles this way; the documented type of the option admits one kind of them only.
    Reflect.set(all, 'handle', handle)
    return all
  }
  const code = getSystemErrorName(status)
  throw new OsError(code, 'uv_pipe_open', `cannot make a stream of descriptor ${fd}: ${code}`)
}

function findPipeClass(): PipeClass {
  const probe = new Socket()
  // A directory is never a listening socket, so nothing is ever reached; the refusal arrives after destroy, if at all.
  probe.on('error', () => {})
  probe.connect({ path: '/' })
  const handle: unknown = Reflect.get(probe, '_handle')
  probe.destroy()
  const found = typeof handle === 'object' && handle !== null ? handle.constructor : undefined
  if (isPipeClass(found)) return found
  throw new OsError('ENOTSUP', 'uv_pipe_open', `Node ${process.version} hides its pipe handle: vsock and pty streams need Node 20 to 26`)
}

function isPipeClass(value: unknown): value is PipeClass {
  return typeof value === 'function' && value.name === 'Pipe' && typeof Reflect.get(value, 'prototype')?.open === 'function'
}

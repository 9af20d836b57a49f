/** What the native addon has for a vsock: one function per system call. All throw an Error with `code`, `syscall` and `errno`. */
import type { PollCalls } from '../poll.ts'

export interface VsockAddon extends PollCalls {
  readonly version: number
  vsockConnect(cid: number, port: number, timeoutMs: number): number
  vsockListen(port: number, backlog: number): number
  vsockAccept(listener: number): readonly [fd: number, cid: number, port: number]
  vsockAddress(fd: number): readonly [cid: number, port: number]
  vsockLocalCid(): number
  socketError(fd: number): void
}

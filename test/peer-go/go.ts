/** Builds and runs the Go peer. */
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { execa, execaSync } from 'execa'
import { lackOfGo } from '../../tools/go.ts'

const folder = import.meta.dirname
const binary = path.join(folder, '../../build/test/ttrpc-peer')

/** Builds the peer, where the machine has the Go for it. */
export function buildPeer(): { readonly path: string } | { readonly lack: string } {
  const lack = lackOfGo(folder)
  if (lack !== undefined) return { lack }
  mkdirSync(path.dirname(binary), { recursive: true })
  execaSync('go', ['build', '-trimpath', '-o', binary, '.'], { cwd: folder })
  return { path: binary }
}

/** A directory for sockets that is gone with the scope. */
export function socketFolder(): { readonly path: (name: string) => string } & Disposable {
  const dir = mkdtempSync(path.join(tmpdir(), 'ttrpc-'))
  return {
    path: (name) => path.join(dir, name),
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  }
}

export interface PeerProcess extends AsyncDisposable {
  /** SIGKILL; resolves when it is dead. */
  kill(): Promise<void>
  /** Writes a line to it, and waits for one. */
  tell(line: string): Promise<void>
}

/** A Go server on `socket` that ends with the scope. */
export const servePeer = (peer: string, socket: string): Promise<PeerProcess> => startPeer(peer, ['serve', socket])

/** A Go client of the server on `socket`, with a call of each kind under way (test/peer-go/pending.go). */
export const pendingPeer = (peer: string, socket: string): Promise<PeerProcess> => startPeer(peer, ['pending', socket])

/** Resolves when it has said its first line. */
async function startPeer(peer: string, args: readonly string[]): Promise<PeerProcess> {
  const child = execa(peer, args, { stdin: 'pipe', stderr: 'inherit', reject: false })
  const line = () => Promise.race([once(child.stdout, 'data'), child])
  await line()
  return {
    async kill() {
      child.kill('SIGKILL')
      await child
    },
    async tell(text) {
      const answer = line()
      child.stdin.write(`${text}\n`)
      await answer
      if (child.exitCode !== null) throw new Error(`the peer ended at ${JSON.stringify(text)}`)
    },
    async [Symbol.asyncDispose]() {
      child.stdin.end()
      await child
    },
  }
}

/** A connected unix socket. */
export async function connect(socket: string): Promise<net.Socket> {
  const connection = net.connect(socket)
  await once(connection, 'connect')
  return connection
}

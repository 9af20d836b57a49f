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

/** A Go server on `socket` that ends with the scope. */
export async function servePeer(peer: string, socket: string): Promise<AsyncDisposable> {
  const child = execa(peer, ['serve', socket], { stdin: 'pipe', stderr: 'inherit', reject: false })
  await Promise.race([once(child.stdout, 'data'), child])
  return {
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

/**
 * A client of the pod's localhost, for use inside the pod's network namespace on the host, where containerd dials it.
 * Says what came of it as one line of JSON.
 *
 *   ask PORT BYTES            sends so many bytes, ends, and reads the whole answer
 *   listen-first PORT BYTES   reads to the end, then sends so many bytes and ends
 *   read-late PORT FILE       reads nothing until FILE exists
 *   hold PORT FILE            sends a line, makes FILE when the answer comes, and waits for the connection's end
 *   dial PORT                 only connects, and waits for the same
 *
 * FILE.progress counts the bytes that were written while an answer is awaited.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { blockOfLines } from './bulk.ts'

const POLL_MS = 50
const [mode = '', port = '', argument = '', progressFile] = process.argv.slice(2)

const socket = connect({ port: Number(port), host: '127.0.0.1', allowHalfOpen: true })
let error: string | undefined
socket.on('error', (cause) => (error = 'code' in cause ? String(cause.code) : cause.message))
const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))

/** The same bytes for everyone who asks for so many. */
async function send(bytes: number): Promise<string> {
  const hash = createHash('md5')
  const block = blockOfLines(1)
  for (let sent = 0; sent < bytes && !socket.destroyed; ) {
    const piece = block.subarray(0, Math.min(block.length, bytes - sent))
    hash.update(piece)
    if (!socket.write(piece)) await Promise.race([once(socket, 'drain').catch(() => {}), closed])
    sent += piece.length
    if (progressFile !== undefined) writeFileSync(progressFile, String(sent))
  }
  socket.end()
  return hash.digest('hex')
}

async function receive(from: Socket): Promise<{ readonly bytes: number; readonly md5: string; readonly text: string }> {
  const hash = createHash('md5')
  let bytes = 0
  let text = ''
  from.on('data', (chunk: Buffer) => {
    hash.update(chunk)
    bytes += chunk.length
    if (text.length < 200) text += chunk.toString('latin1', 0, 200)
  })
  await Promise.race([once(from, 'end').catch(() => {}), closed])
  return { bytes, md5: hash.digest('hex'), text }
}

async function run(): Promise<object> {
  switch (mode) {
    case 'ask': {
      const [sent, received] = await Promise.all([send(Number(argument)), receive(socket)])
      return { sent, received }
    }
    case 'listen-first': {
      const received = await receive(socket)
      const sent = await send(Number(argument))
      await closed
      return { received, sent }
    }
    case 'read-late': {
      socket.pause()
      while (!existsSync(argument)) await sleep(POLL_MS)
      const received = await receive(socket.resume())
      socket.end()
      return { received }
    }
    case 'hold': {
      socket.write('hold\n')
      socket.once('data', () => writeFileSync(argument, '')).once('end', () => socket.end())
      await closed
      return {}
    }
    case 'dial': {
      socket.resume().once('end', () => socket.end())
      await closed
      return {}
    }
    default:
      throw new Error(`unknown mode ${mode}`)
  }
}

const outcome = await run()
socket.destroy()
console.log(JSON.stringify({ ...outcome, error: error ?? '' }))

/** Runs in the lab's machine, as lab.service, and does what its driver asks (wire.ts). */
import { spawn } from 'node:child_process'
import { connect, type Socket } from 'node:net'
import { constants } from 'node:os'
import { buffer } from 'node:stream/consumers'
import { CID_HOST } from '#shared/os/contract.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { LAB_PORT, READY_PORT, readLine, relay, type Request, type RunAnswer, type RunRequest } from './wire.ts'

/** What a shell answers for a command that cannot be run */
const NOT_FOUND = 127

const { vsock } = createNativeOs()
await vsock.listen(LAB_PORT, (socket) => {
  serve(socket).catch((error: unknown) => {
    console.error('lab:', error)
    socket.destroy()
  })
})
;(await vsock.connect({ cid: CID_HOST, port: READY_PORT })).on('error', () => {}).resume()

async function serve(socket: Socket): Promise<void> {
  const request: Request = JSON.parse(await readLine(socket))
  if ('connect' in request) relay(socket, connect(request.connect.path))
  // Closing is the other side's: what is on its way when this side closes may be lost in vhost-device-vsock.
  else socket.write(`${JSON.stringify(await run(request.run))}\n`)
}

async function run({ argv, input }: RunRequest): Promise<RunAnswer> {
  const [file = '', ...args] = argv
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'pipe'] })
  let failure = ''
  const ended = new Promise<number>((resolve) => {
    child.once('error', (error) => {
      failure = `${error.message}\n`
      resolve(NOT_FOUND)
    })
    child.once('exit', (code, signal) => resolve(code ?? 128 + constants.signals[signal ?? 'SIGKILL']))
  })
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  const [stdout, stderr, exitCode] = await Promise.all([buffer(child.stdout), buffer(child.stderr), ended])
  return { stdout: stdout.toString('base64'), stderr: Buffer.concat([stderr, Buffer.from(failure)]).toString('base64'), exitCode }
}

/** Readiness of a helper: a socket that listens, or the reason why none ever will. */
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { isListening, untilListening } from '#host/backends/microvm/listening.ts'
import { startProcess } from '#host/backends/microvm/process.ts'
import { untilReady } from '#host/backends/microvm/readiness.ts'

const forever = new AbortController().signal

async function waiting(t: Test, script: string, signal = forever, task?: () => Promise<void>) {
  const dir = await mkdtemp('/tmp/microvm-listening-')
  const logFile = join(dir, 'helper.log')
  const socket = join(dir, 'helper.sock')
  const command = { file: '/bin/sh', args: ['-c', script] }
  const process = startProcess({ sandboxId: 'sb', name: 'helper', command, cgroupProcs: [], netnsPath: undefined, privileged: true, dir, logFile })
  t.teardown(async () => {
    await process.kill()
    await rm(dir, { recursive: true })
  })
  return { socket, ready: untilReady({ process, logFile, signal }, task ?? ((ending) => untilListening(socket, 'self', ending))) }
}

t.test('resolves once the socket listens', async (t) => {
  const { socket, ready } = await waiting(t, 'sleep 600')
  const server = createServer().listen(socket)
  t.teardown(() => server.close())
  await ready
  t.pass('listens')
})

t.test('a helper that dies says why', async (t) => {
  const { ready } = await waiting(t, 'echo "no such directory: /s" >&2; exit 2')
  await t.rejects(ready, { code: 'ABORTED', message: 'helper ended with code 2 before it was ready: no such directory: /s' })
})

t.test('a program that is missing says so', async (t) => {
  const { ready } = await waiting(t, 'exec /nowhere/helper')
  await t.rejects(ready, { code: 'ABORTED', message: /^helper ended with code 127 before it was ready: .*\/nowhere\/helper/ })
})

t.test('the death of the process explains what went wrong with it', async (t) => {
  const dir = await mkdtemp('/tmp/microvm-listening-')
  t.teardown(() => rm(dir, { recursive: true }))
  const logFile = join(dir, 'helper.log')
  const command = { file: '/bin/sh', args: ['-c', 'sleep 0.05; echo "bad option" >&2; exit 1'] }
  const process = startProcess({ sandboxId: 'sb', name: 'helper', command, cgroupProcs: [], netnsPath: undefined, privileged: true, dir, logFile })
  const failing = untilReady({ process, logFile, signal: forever }, () => Promise.reject(new Error('read ECONNRESET')))
  await t.rejects(failing, { code: 'ABORTED', message: 'helper ended with code 1 before it was ready: bad option' })
})

t.test('of a process that lives on, what went wrong is told as it is', async (t) => {
  const { ready } = await waiting(t, 'sleep 600', forever, () => Promise.reject(new Error('read ECONNRESET')))
  await t.rejects(ready, { message: 'read ECONNRESET' })
})

t.test('ends with its signal', async (t) => {
  const controller = new AbortController()
  const { ready } = await waiting(t, 'sleep 600', controller.signal)
  controller.abort(new Error('no longer wanted'))
  await t.rejects(ready, { message: 'no longer wanted' })
})

const row = (flags: string, path: string) => `0000000054e4f8f9: 00000002 00000000 ${flags} 0001 01 41571 ${path}`

t.test('bound is not listening, and another path is another socket', (t) => {
  const header = 'Num       RefCount Protocol Flags    Type St Inode Path'
  t.equal(isListening([header, row('00010000', '/s/v.sock')].join('\n'), '/s/v.sock'), true)
  t.equal(isListening([header, row('00000000', '/s/v.sock')].join('\n'), '/s/v.sock'), false)
  t.equal(isListening([header, row('00010000', '/s/v.sock2')].join('\n'), '/s/v.sock'), false)
  t.equal(isListening([header, row('00010000', '/other/s/v.sock')].join('\n'), '/s/v.sock'), false)
  t.end()
})

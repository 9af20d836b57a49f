/**
 * Connections of a guest's vsock whose host end goes in the middle: of a dial, of a download, of a sandboxer's life. The
 * device by itself says nothing of it to the guest in some of these, and in others does not survive (host/link/hang-up.ts,
 * host/backends/microvm/vsock-guard.c).
 */
import { writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import t from 'tap'
import { dialHybrid } from '#host/link/dial.ts'
import { FORWARD_PORT } from '#shared/forward/frame.ts'
import { checkout, inside as at } from '#test/node/paths.ts'
import { sandboxerConfig } from '#test/node/sandboxer.ts'
import { deathReason, pidOf, recordOf, stateOf, until } from '#test/support/faults.ts'
import { idle, inside, microvm, startKuasar } from '#test/support/kuasar.ts'

const DIALS = 100
/** Between two looks whether the device has survived them. */
const RUDE_DIALS = 20
/** Looks in a row that find every thread of the device asleep: it does not spin. */
const QUIET_LOOKS = 10
/** A microVM whose device goes without its guard. */
const unguarded = 'kuasar-unguarded'
/** Whoever sends for so long to a stopped process has filled every buffer on the way, or nearly so. */
const STALL_MS = 3_000

await execa('make', ['container-tools'], { cwd: checkout })
const backends = {
  ...sandboxerConfig.backends,
  [unguarded]: { ...sandboxerConfig.backends[microvm], vhost_device_vsock: `${at.checkout}/build/test/unguarded` },
}
await writeFile(`${checkout}/build/test/unguarded`, '#!/bin/sh\nunset LD_PRELOAD\nexec /usr/bin/vhost-device-vsock "$@"\n', { mode: 0o755 })
const kuasar = await startKuasar({ sandboxer: { config: { backends } }, containerd: { sandboxers: [microvm, unguarded] } })
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, sandboxer, containerd } = kuasar

const pod = await containerd.cri.runPod({ name: 'hung-up' }, microvm)
const endless = `/tcp-server 127.0.0.1 7000 sh -c 'while :; do head -c 1048576 /dev/zero || exit; done'`
const mounts = [{ hostPath: `${at.checkout}/build/test/tcp-server`, containerPath: '/tcp-server', readonly: true }]
const container = await pod.run({ name: 'server', command: ['sh', '-c', endless], mounts })
await until('the server listens', async () => (await container.output()).includes('listening'))
const device = await pidOf(node, pod.id, 'vhost-device-vsock')

/** Open connections of the server and the agent's to it. */
const connections = async () => Number(await inside(container, "cat /proc/net/tcp | awk '$4 == \"01\" || $4 == \"08\"' | wc -l"))
const threads = () => kuasar.sh(`ls /proc/${device}/task | wc -l`)
const files = async () => Number(await kuasar.sh(`ls /proc/${device}/fd | wc -l`))
/** Of the device's threads: S sleeps, R runs. */
const states = async () => (await kuasar.sh(`sed 's/.*) //' /proc/${device}/task/*/stat | cut -c 1`)).trim().split('\n')
/** Bytes that wait to be read by the host's ends of the guest's vsock. */
const unread = async () => Number(await kuasar.sh(`ss --unix --no-header state established | grep -F ${pod.id} | awk '{print $2; print $3}' | sort -n | tail -n 1`))

t.test('dials that are given up at any moment', async (t) => {
  const path = node.path(`/run/kuasar/sandboxes/${pod.id}/vsock`)
  const [threadsBefore, filesBefore] = [await threads(), await files()]
  let made = 0
  for (let i = 0; i < DIALS; i++) {
    const abort = new AbortController()
    const dialling = dialHybrid(path, FORWARD_PORT, abort.signal)
    if (i % 2 === 0) abort.abort(new Error('given up'))
    else setTimeout(() => abort.abort(new Error('given up')), (i % 20) / 4)
    try {
      const socket = await dialling
      socket.destroy()
      made++
    } catch (error) {
      if (!(error instanceof Error && error.message === 'given up')) throw error
    }
  }
  t.comment(`${made} of ${DIALS} were quicker`)
  t.equal(await inside(container, 'echo alive'), 'alive')
  t.equal(await threads(), threadsBefore, 'the device has all of its threads')
  // One more for the heartbeat's connection, whenever it came.
  await until('no connection is left in the device', async () => (await files()) <= filesBefore + 1)
})

/** Dials the guest and goes, as a process does that is killed: before it has said where to, after, or with the answer on its way. */
async function rude(path: string, index: number): Promise<void> {
  const socket = connect({ path }).on('error', () => {})
  const closed = new Promise((resolve) => socket.once('close', resolve))
  socket.once('connect', () => {
    if (index % 4 === 0) socket.destroy()
    else socket.write(`CONNECT ${FORWARD_PORT}\n`, () => (index % 4 === 1 ? setTimeout(() => socket.destroy(), (index % 20) / 4) : socket.destroy()))
  })
  await closed
}

t.test('processes that are killed in the middle of a dial', async (t) => {
  const threadsBefore = await threads()
  for (let i = 0; i < DIALS; i++) await rude(node.path(`/run/kuasar/sandboxes/${pod.id}/vsock`), i)
  t.comment(`${await files()} files of the device after ${DIALS} such dials`)
  t.equal(await inside(container, 'echo alive'), 'alive')
  t.equal(await threads(), threadsBefore, 'the device has all of its threads')
  let quiet = 0
  await until('the device sleeps', async () => {
    quiet = (await states()).every((state) => state === 'S') ? quiet + 1 : 0
    return quiet === QUIET_LOOKS
  })
  t.equal(await stateOf(pod), 'SANDBOX_READY')
})

t.test('a download whose client goes while the sandboxer cannot read', async (t) => {
  const forward = await pod.portForward(7000)
  await forward.ports[0]?.until((received) => received.length > 1024 * 1024)
  sandboxer.service.signal('SIGSTOP')
  await sleep(STALL_MS)
  t.ok((await unread()) > 0, 'bytes are on their way to it')
  forward.close()
  sandboxer.service.signal('SIGCONT')
  await until('no connection is left in the guest', async () => (await connections()) === 0)
  t.pass('the guest has heard of it')
})

t.test('a sandboxer that is killed with its guest’s words unread', async (t) => {
  const { netnsPath } = (await recordOf(node, pod.id)).plan
  const download = node.run('nsenter', [`--net=${netnsPath}`, 'node', `${at.checkout}/test/support/localhost-client.ts`, 'read-late', '7000', '/scratch/read'])
  await until('the download is under way', async () => (await connections()) > 0)
  sandboxer.service.signal('SIGSTOP')
  // Each publishes its start and its end, which the stopped sandboxer does not read.
  for (let i = 0; i < 3; i++) await inside(container, 'true')
  await until('its words wait', async () => (await unread()) > 0)
  sandboxer.service.signal('SIGKILL')
  sandboxer.service.signal('SIGCONT')
  await sandboxer.stop('SIGKILL')
  await sandboxer.start()
  t.equal(await stateOf(pod), 'SANDBOX_READY')
  const next = await pod.run({ name: 'next', ...idle })
  t.equal(await inside(next, 'echo prepared'), 'prepared', 'the guest can ask the next sandboxer')
  await until('no connection is left in the guest', async () => (await connections()) === 0)
  await writeFile(node.path('/scratch/read'), '')
  await download
})

t.test('a device that loses its thread ends its pod, and says why', async (t) => {
  const doomed = await containerd.cri.runPod({ name: 'doomed' }, unguarded)
  const path = node.path(`/run/kuasar/sandboxes/${doomed.id}/vsock`)
  const state = await until('the pod is not ready any more', async () => {
    for (let i = 0; i < RUDE_DIALS; i++) await rude(path, 2)
    const { state } = await doomed.status()
    return state === 'SANDBOX_NOTREADY' ? state : undefined
  })
  t.equal(state, 'SANDBOX_NOTREADY')
  t.match(await deathReason(node, doomed.id), /^vhost-device-vsock: a thread panicked at .*BrokenPipe/)
  await doomed.remove()
})

t.test('what is left', async (t) => {
  await pod.remove()
  t.strictSame(await kuasar.leaks(), [])
})

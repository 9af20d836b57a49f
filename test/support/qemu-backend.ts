/** Tests of test/integration/qemu-backend.test.ts; they run inside a node. */
import { readFile, readlink, readdir } from 'node:fs/promises'
import t from 'tap'
import { QemuLab, makeNetns } from './qemu-lab.ts'

const helpers = ['qemu', 'virtiofsd', 'virtiofsd-roots', 'vhost-device-vsock'] as const

t.test('a VM boots to its hello, in its network namespace, and ends without a trace', async (t) => {
  const netnsPath = makeNetns('pod')
  await using lab = new QemuLab('a'.repeat(64), { netnsPath })
  const running = await lab.launch()
  t.strictSame(lab.marks.toSorted(), helpers.toSorted())
  t.equal(running.taskAddress, `ttrpc+hvsock://${lab.plan.dir}/vsock:1024`)
  t.equal(running.vmmPid, lab.process('qemu').pid)

  const own = await readlink('/proc/self/ns/net')
  const [vmm, vsock] = await Promise.all(['qemu', 'vhost-device-vsock'].map((name) => readlink(`/proc/${lab.process(name).pid}/ns/net`)))
  t.not(vmm, own, "the VMM is not in the host's network")
  t.equal(vsock, vmm)
  for (const name of helpers) {
    const status = await readFile(`/proc/${lab.process(name).pid}/status`, 'latin1')
    if (name !== 'vhost-device-vsock') t.match(status, name === 'qemu' ? /^Seccomp:\s+2$/m : /^Seccomp:/m)
    if (!name.startsWith('virtiofsd')) t.match(status, /^CapEff:\s+0+$/m, `${name} has no capability`)
  }

  const link = await lab.link
  t.ok(link, 'the guest called its host')
  // The agent listens only after Hello was answered, which nobody does here.
  await t.rejects(running.dial(1024, AbortSignal.timeout(5_000)), { code: 'UNAVAILABLE' })
  t.match(await readFile(`/proc/${running.vmmPid}/limits`, 'latin1'), /^Max file size\s+4194304\s+4194304\s/m)

  await running.kill()
  t.strictSame(await running.exited.then(({ expected, reason }) => ({ expected, reason })), { expected: true, reason: 'ended by the sandboxer' })
  t.equal(await lab.alive(), 0)
  await running.kill()
})

for (const name of helpers)
  t.test(`the death of ${name} is the end of the sandbox, and named`, async (t) => {
    await using lab = new QemuLab(`death-${name}`)
    const running = await lab.launch()
    process.kill(lab.process(name).pid, 'SIGKILL')
    t.match(await running.exited, { expected: false, reason: `${name} was killed by SIGKILL` })
    await running.kill()
    t.equal(await lab.alive(), 0)
  })

t.test('a later sandboxer adopts what an earlier one left, and both know the same VM', async (t) => {
  await using lab = new QemuLab('adoption')
  const first = await lab.launch()
  first.detach()
  const second = await lab.adopt()
  t.equal(second.vmmPid, first.vmmPid)
  t.equal(second.taskAddress, first.taskAddress)
  t.equal(second.servesRoots, true)
  t.ok(await lab.link, 'the guest never noticed')
  process.kill(lab.process('virtiofsd').pid, 'SIGKILL')
  t.match(await second.exited, { expected: false, reason: 'virtiofsd ended' })
  await second.kill()
  t.equal(await lab.alive(), 0)
  await t.rejects(lab.adopt(), { code: 'NOT_FOUND', message: /qemu \(pid \d+\) is gone/ })
})

t.test('a VM of a sandboxer that knew one virtiofsd is adopted with one; the lack of one that was started is its end', async (t) => {
  await using lab = new QemuLab('earlier')
  const first = await lab.launch()
  first.detach()
  const owned = lab.owned.filter((resource) => resource.kind !== 'process' || resource.name !== 'virtiofsd-roots')
  const second = await lab.adopt({ adoption: { version: 1 }, owned })
  t.equal(second.servesRoots, false)
  second.detach()
  await t.rejects(lab.adopt({ owned }), { code: 'NOT_FOUND', message: /no virtiofsd-roots/ })
})

t.test('a frozen VMM is not adopted', async (t) => {
  await using lab = new QemuLab('frozen')
  const first = await lab.launch()
  first.detach()
  process.kill(first.vmmPid, 'SIGSTOP')
  await t.rejects(lab.adopt(), { code: 'UNAVAILABLE', message: /frozen.*qmp\.sock/ })
})

t.test('a guest that powers off is told apart from a VMM that crashes', async (t) => {
  await using lab = new QemuLab('panic')
  const running = await lab.launch({ kernel_parameters: 'rdinit=/nowhere init=/nowhere' })
  t.match(await running.exited, { expected: false, reason: /^qemu ended: the guest / })
  const tail = await running.consoleTail(20)
  t.ok(tail.length > 0, 'the console says why')
  t.comment(tail)
})

for (const [about, config, plan, code, message] of [
  ['the VMM is missing', { path: '/nowhere/qemu' }, {}, 'ABORTED', /^start qemu: qemu ended with code 127 before it was ready: .*\/nowhere\/qemu: No such file/],
  ['virtiofsd is missing', { virtiofsd: '/nowhere/virtiofsd' }, {}, 'ABORTED', /^start virtiofsd(-roots)?: .*\/nowhere\/virtiofsd: not found/],
  ['vhost-device-vsock is missing', { vhost_device_vsock: '/nowhere/v' }, {}, 'ABORTED', /^start vhost-device-vsock: .*\/nowhere\/v\W*: No such file/],
  ['the kernel is missing', { kernel: '/nowhere/vmlinuz' }, {}, 'ABORTED', /^start qemu: .*\/nowhere\/vmlinuz/],
  ['the kernel is none', { kernel: '/etc/hostname' }, {}, 'ABORTED', /^start qemu: .*kernel/],
  ['the root disk is missing', { rootfs: '/nowhere/rootfs' }, {}, 'ABORTED', /^start qemu: .*\/nowhere\/rootfs/],
  ['the CPU model is unknown', { cpu: 'z80' }, {}, 'ABORTED', /^start qemu: .*z80/],
  ['there is no memory for the guest', {}, { memoryMiB: 2 ** 34 }, 'ABORTED', /^start qemu: .*(memory|RAM)/i],
  ['the network namespace is gone', {}, { netnsPath: '/run/netns/gone' }, 'ABORTED', /^start vhost-device-vsock: .*\/run\/netns\/gone/],
  ['a cgroup is gone', {}, { cgroupProcs: ['/sys/fs/cgroup/gone/cgroup.procs'] }, 'ABORTED', /^start \S+: .*\/sys\/fs\/cgroup\/gone/],
  ['KVM is demanded where there is none', { accel: 'kvm' }, {}, 'FAILED_PRECONDITION', /accel = "kvm" cannot be had/],
] as const)
  t.test(`a failed start names its step and cause: ${about}`, async (t) => {
    await using lab = new QemuLab('failing', plan)
    await t.rejects(lab.launch(config), { code, message })
    t.equal(await lab.alive(), 0)
  })

t.test('a launch that is called off leaves nothing', async (t) => {
  await using lab = new QemuLab('aborted')
  const controller = new AbortController()
  const launching = lab.launch({}, controller.signal)
  setImmediate(() => controller.abort(new Error('the pod was stopped')))
  await t.rejects(launching, { message: /the pod was stopped/ })
  t.equal(await lab.alive(), 0)
})

t.test('after all that nothing is left', async (t) => {
  t.strictSame(await readdir('/run/kuasar/sandboxes'), [])
  t.notMatch(await readFile('/proc/self/mountinfo', 'latin1'), '/run/kuasar/')
  t.equal(await readFile('/proc/net/unix', 'latin1').then((text) => text.includes('/run/kuasar/')), false)
})

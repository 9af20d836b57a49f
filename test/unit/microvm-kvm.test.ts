/** KVM is usable when CPU and device both say so; every other combination falls back, and says why. */
import t from 'tap'
import { Accelerators, type KvmFacts, chooseAccelerator, kvmObstacle } from '#host/backends/microvm/kvm.ts'

const cpuinfo = (flags: string) => `processor\t: 0\nvendor_id\t: X\nflags\t\t: fpu ${flags} lm\nbugs\t\t: none\n`
const facts = (flags: string, deviceError?: string): KvmFacts => ({ cpuinfo: cpuinfo(flags), deviceError })

t.test('both vendors', (t) => {
  t.equal(kvmObstacle(facts('vmx')), undefined)
  t.equal(kvmObstacle(facts('svm')), undefined)
  t.end()
})

t.test('a device without CPU support is no KVM, nor a flag whose name merely begins alike', (t) => {
  t.match(kvmObstacle(facts('sse2')), /neither vmx nor svm/)
  t.match(kvmObstacle(facts('svm_lock vmx_ept')), /neither vmx nor svm/)
  t.match(kvmObstacle({ cpuinfo: 'no flags here', deviceError: undefined }), /neither vmx nor svm/)
  t.end()
})

t.test('CPU support without a device that opens is no KVM either', (t) => {
  t.match(kvmObstacle(facts('vmx', 'EACCES: permission denied')), /\/dev\/kvm cannot be opened: EACCES/)
  t.end()
})

t.test('the setting decides what is made of it', (t) => {
  t.strictSame(chooseAccelerator('auto', facts('svm')), { accelerator: 'kvm', warning: undefined })
  t.strictSame(chooseAccelerator('kvm', facts('svm')), { accelerator: 'kvm', warning: undefined })
  t.strictSame(chooseAccelerator('tcg', facts('svm')), { accelerator: 'tcg', warning: undefined })
  t.match(chooseAccelerator('auto', facts('')), { accelerator: 'tcg', warning: /emulation \(TCG\).*neither vmx nor svm/ })
  t.throws(() => chooseAccelerator('kvm', facts('vmx', 'ENOENT')), { code: 'FAILED_PRECONDITION', message: /accel = "kvm".*ENOENT.*set accel/ })
  t.end()
})

t.test('a device that comes later is used, and one that was there is not asked for again', async (t) => {
  const looks = [facts('svm', 'ENOENT'), facts('svm', 'ENOENT'), facts('svm')]
  const accelerators = new Accelerators(async () => {
    const next = looks.shift()
    if (next === undefined) throw new Error('asked again')
    return next
  })
  t.match(await accelerators.choose('auto'), { accelerator: 'tcg' })
  await t.rejects(accelerators.choose('kvm'), { code: 'FAILED_PRECONDITION' })
  for (const setting of ['auto', 'kvm', 'auto'] as const) t.match(await accelerators.choose(setting), { accelerator: 'kvm' })
  looks.push(facts('svm'))
  t.match(await accelerators.choose('tcg'), { accelerator: 'tcg' }, 'who asks for emulation beside it has that')
  t.match(await new Accelerators(async () => facts('svm')).choose('tcg'), { accelerator: 'tcg' })
})

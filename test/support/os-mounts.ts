/** Mounts for real. Runs in a mount namespace of its own, which goes away with this process. */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createNativeOs } from '#shared/os/native.ts'

const { mounts } = createNativeOs()
const target = mkdtempSync(join(tmpdir(), 'kuasar-mount-'))

/** Options and propagation of the topmost mount on the target, as mountinfo(5) lists them. */
function mountinfo(): string | undefined {
  return readFileSync('/proc/self/mountinfo', 'utf8').split('\n').findLast((line) => line.split(' ')[4] === target)
}

mounts.mount({ source: 'tmpfs', target, type: 'tmpfs', options: ['nosuid', 'size=64k', 'mode=0700'] })
assert.match(mountinfo() ?? '', / rw,nosuid.* - tmpfs .*size=64k,mode=700/)
writeFileSync(join(target, 'file'), 'x')

mounts.mount({ source: target, target, type: 'none', options: ['rbind', 'ro', 'noexec', 'rshared'] })
assert.match(mountinfo() ?? '', / ro,.*noexec.* shared:/)
assert.throws(() => writeFileSync(join(target, 'file'), 'y'), { code: 'EROFS' })
mounts.unmount(target)
writeFileSync(join(target, 'file'), 'y')

assert.throws(() => mounts.mount({ source: '/nowhere', target, type: '', options: ['bind', 'ro'] }), { code: 'ENOENT' })
assert.throws(() => mounts.mount({ source: 'x', target, type: 'nosuchfs', options: [] }), { code: 'ENODEV' })
symlinkSync(target, `${target}-link`)
assert.throws(() => mounts.unmount(`${target}-link`, true), { code: 'EINVAL' })
rmSync(`${target}-link`)
mounts.unmount(target, true)
assert.throws(() => mounts.unmount(target), { code: 'EINVAL' })
assert.equal(mountinfo(), undefined)
rmdirSync(target)
console.log('mounts ok')

/** Mounts for real. Runs in a mount namespace of its own, which goes away with this process. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
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

// Of a tree, a mount over another included, all at once.
mkdirSync(join(target, 'below'))
mounts.mount({ source: 'tmpfs', target: join(target, 'below'), type: 'tmpfs', options: [] })
writeFileSync(join(target, 'below/file'), 'x')
mounts.mount({ source: target, target, type: '', options: ['rbind'] })
mounts.restrict(target)
assert.match(mountinfo() ?? '', / ro,nosuid,nodev/)
for (const file of ['file', 'below/file']) assert.throws(() => writeFileSync(join(target, file), 'y'), { code: 'EROFS' })
mounts.unmount(target, true)
for (const file of ['file', 'below/file']) writeFileSync(join(target, file), 'y')
assert.throws(() => mounts.restrict(join(target, 'file')), { code: 'EINVAL' })
mounts.unmount(join(target, 'below'))

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

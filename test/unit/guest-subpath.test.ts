/** Parts of a volume that containers can write while the agent, which is root, looks for them. */
import { lstatSync, mkdirSync, readdirSync, readFileSync, realpathSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { withSubpath } from '#guest/storage/subpath.ts'

const root = t.testdir({ volume: { there: { file: 'content' }, file: '' }, outside: { secret: 's' } })
const volume = `${root}/volume`
/** Only root can give away what it makes. */
const [uid, gid] = process.getuid?.() === 0 ? [1234, 5678] : [process.getuid?.(), process.getgid?.()]
const own = [`uid=${uid}`, `gid=${gid}`]
const found = (path: string, mode = '0750') =>
  withSubpath(volume, [`path=${path}`, `mode=${mode}`, ...own], (at, isDirectory) => ({ path: realpathSync(at), isDirectory }))

t.test('what is there, and what is made', async (t) => {
  t.strictSame(found('/there'), { path: `${volume}/there`, isDirectory: true })
  t.strictSame(found('there/file'), { path: `${volume}/there/file`, isDirectory: false })
  t.strictSame(found('/'), { path: volume, isDirectory: true })
  t.strictSame(found('/a/b', '2770'), { path: `${volume}/a/b`, isDirectory: true })
  for (const name of ['a', 'a/b']) {
    const made = statSync(`${volume}/${name}`)
    t.strictSame([made.mode & 0o7777, made.uid, made.gid], [0o2770, uid, gid])
  }
  t.not(statSync(`${volume}/there`).mode & 0o7777, 0o750, 'what was there stays as it was')
  withSubpath(volume, ['path=/there', 'mode=0755', ...own], (at) => {
    rmSync(`${volume}/there`, { recursive: true })
    symlinkSync('../outside', `${volume}/there`)
    t.throws(() => readFileSync(`${at}/secret`), { code: 'ENOENT' }, 'what has the name now is not what was looked at')
  })
})

t.test('no descriptor is left open, whatever was found', async (t) => {
  const open = readdirSync('/proc/self/fd').length
  found('/there-not/yet')
  found('/file')
  symlinkSync('nowhere', `${volume}/link`)
  t.throws(() => found('/link'))
  t.throws(() => found('/file/below'))
  t.throws(() => withSubpath(volume, ['path=/there-not', ...own], () => { throw new Error('in use') }))
  t.equal(readdirSync('/proc/self/fd').length, open)
})

t.test('a link on the way leads nowhere', async (t) => {
  const refused = (path: string, word: RegExp) => t.throws(() => found(path), { code: 'FAILED_PRECONDITION', message: word })
  symlinkSync(`${root}/outside`, `${volume}/absolute`)
  symlinkSync('nowhere', `${volume}/dangling`)
  refused('/absolute', /volume\/absolute is a symbolic link/)
  refused('/absolute/made', /volume\/absolute is a symbolic link/)
  refused('/dangling', /volume\/dangling is a symbolic link/)
  t.throws(() => lstatSync(`${root}/outside/made`), { code: 'ENOENT' })
  writeFileSync(`${volume}/plain`, '')
  t.throws(() => found('/plain/below'), { code: 'ENOTDIR' })
  mkdirSync(`${volume}/x`)
  for (const path of ['../outside', 'x/../../outside', './x']) t.throws(() => found(path), { code: 'INVALID_ARGUMENT', message: /is no plain path/ })
})

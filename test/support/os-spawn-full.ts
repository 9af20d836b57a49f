/** Starts a program when this process can open no further descriptor: it must fail, and leave no child. Run with a low `ulimit -n`. */
import assert from 'node:assert/strict'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { createNativeOs } from '#shared/os/native.ts'

const { processes } = createNativeOs()
const start = (file: string) => processes.spawn({ file, args: ['600'], env: {}, stdio: undefined })
// What is loaded on first use is loaded.
await start('/bin/true').ended

const filled: number[] = []
try {
  for (;;) filled.push(openSync('/dev/null', 'r'))
} catch {
  // Full.
}
let thrown: unknown
try {
  start('/bin/sleep')
} catch (error) {
  thrown = error
}
for (const fd of filled) closeSync(fd)
const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8')
for (const pid of children.split(' ').filter(Boolean)) process.kill(Number(pid), 'SIGKILL')
assert.equal(thrown instanceof Error && 'code' in thrown && thrown.code, 'EMFILE')
assert.equal(children, '')

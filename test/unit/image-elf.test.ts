/** On files made here by the compiler, so that what they hold is known. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import { isElf, moduleInfo, neededLibraries } from '../../image/elf.ts'
import { findLibraries, libraryClosure } from '../../image/libraries.ts'
import { moduleClosure, readModuleTree } from '../../image/modules.ts'

const directory = mkdtempSync(join(tmpdir(), 'kuasar-elf-'))
t.teardown(() => rmSync(directory, { recursive: true }))

async function compile(output: string, source: string, ...options: string[]): Promise<string> {
  const path = join(directory, output)
  writeFileSync(`${path}.c`, source)
  await execa('cc', ['-o', path, `${path}.c`, '-nostdlib', ...options])
  return path
}

async function module(name: string, depends: string, softdep?: string): Promise<void> {
  const info = [`depends=${depends}`, ...(softdep === undefined ? [] : [`softdep=${softdep}`])].map((line) => `${line}\\0`).join('')
  const source = `__attribute__((section(".modinfo"), used)) static const char info[] = "${info}";`
  await compile(`tree/kernel/fs/${name}.ko`, source, '-r')
}

await t.test('what a program needs, in its order', async (t) => {
  await compile('libb.so', 'int b(void) { return 1; }', '-shared', '-fPIC', '-Wl,-soname,libb.so.1')
  await compile('liba.so', 'int b(void); int a(void) { return b(); }', '-shared', '-fPIC', '-Wl,-soname,liba.so.1', join(directory, 'libb.so'))
  const program = await compile('program', 'int a(void); void _start(void) { a(); }', join(directory, 'liba.so'), '-Wl,--allow-shlib-undefined')
  t.same(neededLibraries(readFileSync(program)), ['liba.so.1'])
  const loner = await compile('loner', 'void _start(void) {}', '-static')
  t.same(neededLibraries(readFileSync(loner)), [])
  t.equal(isElf(Buffer.from('#!/bin/sh\n'.padEnd(100))), false)

  const libraries = new Map([['liba.so.1', join(directory, 'liba.so')], ['libb.so.1', join(directory, 'libb.so')]])
  t.same([...(await libraryClosure([program], libraries)).keys()], ['liba.so.1', 'libb.so.1'])
  libraries.delete('libb.so.1')
  await t.rejects(libraryClosure([program], libraries), { message: 'liba.so needs libb.so.1, which no package of the image\'s lock brings' })
  t.equal((await findLibraries(directory)).size, 0)
})

await t.test('modules load after what they depend on', async (t) => {
  const tree = join(directory, 'tree')
  mkdirSync(join(tree, 'kernel/fs'), { recursive: true })
  writeFileSync(join(tree, 'modules.builtin'), 'kernel/lib/built-in-one.ko\n')
  await module('top', 'middle,built_in_one', 'pre: soft-one missing-soft')
  await module('middle', 'bottom')
  await module('bottom', '')
  await module('soft-one', '')
  await module('broken', 'nowhere')
  t.same(moduleInfo(readFileSync(join(tree, 'kernel/fs/top.ko'))), [['depends', 'middle,built_in_one'], ['softdep', 'pre: soft-one missing-soft']])

  const modules = await readModuleTree(tree)
  const order = await moduleClosure(modules, ['top'])
  t.same(order.map(({ name }) => name), ['soft_one', 'bottom', 'middle', 'top'])
  t.equal(basename(order[0]?.path ?? ''), 'soft-one.ko')
  t.same((await moduleClosure(modules, ['top', 'bottom'], order)).length, 0, 'what is loaded is not loaded again')
  await t.rejects(moduleClosure(modules, ['broken']), { message: 'the kernel has no module nowhere, which broken needs' })
})

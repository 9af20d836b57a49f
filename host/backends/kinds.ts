/** Every kind of backend, under the name that a table of the configuration calls it by: a folder and a line. */
export { fake, fakeShared as 'fake-shared' } from './fake/index.ts'
export { qemu } from './qemu/index.ts'

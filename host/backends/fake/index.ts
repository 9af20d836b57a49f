/** The fake backend, with and without a share for its containers' files. */
import { type BindBackend, bindBackend } from '#host/sandbox/backends.ts'
import { createFakeBackend } from './backend.ts'

const bind =
  (sharing: 'none' | 'virtiofs'): BindBackend =>
  ({ rpc, os }, table, at) =>
    bindBackend(createFakeBackend({ rpc, processes: os.processes }, sharing), table, at)

export const fake = bind('none')
export const fakeShared = bind('virtiofs')

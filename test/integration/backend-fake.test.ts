import t from 'tap'
import { backendContract } from '#host/backends/contract.ts'
import { bindBackends } from '#host/backends/index.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { rpc } from '#test/host/daemon.ts'

const os = createNativeOs()
const subject = (table: { readonly kind: string; readonly processes?: boolean }) => {
  const backend = bindBackends({ subject: table }, 'test', { rpc, os }).get('subject')
  if (backend === undefined) throw new Error('not bound')
  return { backend, rpc, mounts: os.mounts, memoryMiB: 256 }
}

t.test('guests in the sandboxer', (t) => backendContract(t, { ...subject({ kind: 'fake' }), processes: [] }))
t.test('guests as processes', (t) => backendContract(t, { ...subject({ kind: 'fake-shared', processes: true }), processes: ['guest'] }))

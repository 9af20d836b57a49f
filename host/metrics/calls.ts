/** Calls that were served. Only methods that exist get here: an unknown one is no call (guests.ts counts a guest's). */
import { Counter, Histogram, type Registry } from 'prom-client'
import type { CallReport } from '#shared/ttrpc/options.ts'
import { callBuckets } from './buckets.ts'

/** It is answered when its sandbox ends: how long that takes is no duration of a call's. */
const WAIT = '/containerd.services.sandbox.v1.Controller/Wait'

export function countCalls(registry: Registry): (report: CallReport) => void {
  const registers = [registry]
  const total = new Counter({
    name: 'kuasar_calls_total',
    help: 'Calls that were answered, and those whose caller had gone before',
    labelNames: ['service', 'method', 'code'],
    registers,
  })
  const took = new Histogram({
    name: 'kuasar_call_seconds',
    help: 'What calls took, but for Controller.Wait',
    labelNames: ['service', 'method'],
    buckets: callBuckets,
    registers,
  })
  return ({ path, code, durationMs }) => {
    const [, service = '', method = ''] = path.split('/')
    total.inc({ service, method, code })
    if (path !== WAIT) took.observe({ service, method }, durationMs / 1000)
  }
}

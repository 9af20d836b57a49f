/** What guests did that no agent of ours does. Which of them, the log says. */
import { Counter, type Registry } from 'prom-client'
import type { CallReport } from '#shared/ttrpc/options.ts'
import { guestRefusals, type GuestRefusal } from '../sandbox/guest.ts'

export interface GuestCounts {
  readonly answered: (report: CallReport) => void
  readonly refused: (what: GuestRefusal) => void
}

export function countGuests(registry: Registry): GuestCounts {
  const refusals = new Counter({
    name: 'kuasar_guest_refusals_total',
    help: 'What guests sent that was refused',
    labelNames: ['kind'],
    registers: [registry],
  })
  for (const kind of guestRefusals) refusals.inc({ kind }, 0)
  const refused = (kind: GuestRefusal): void => refusals.inc({ kind })
  return {
    answered({ code }) {
      if (code === 'INVALID_ARGUMENT' || code === 'FAILED_PRECONDITION') refused('call')
    },
    refused,
  }
}

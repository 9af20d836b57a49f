/** What the agent learns of its kernel once. */
import { isDigits } from '#shared/digits.ts'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'

/** /proc/sys/kernel/osrelease; empty without /proc. */
export function kernelVersion(): string {
  try {
    return readFileSync('/proc/sys/kernel/osrelease', 'latin1').trim()
  } catch {
    return ''
  }
}

/** Huge page sizes in OCI's notation ("2MB", "1GB"), from names like "hugepages-2048kB". */
export function hugepageSizes(): string[] {
  try {
    return readdirSync('/sys/kernel/mm/hugepages').flatMap((name) => {
      const digits = name.startsWith('hugepages-') && name.endsWith('kB') ? name.slice('hugepages-'.length, -'kB'.length) : ''
      if (!isDigits(digits, 9)) return []
      const kilobytes = Number(digits)
      if (kilobytes % (1024 * 1024) === 0) return [`${kilobytes / 1024 / 1024}GB`]
      return [kilobytes % 1024 === 0 ? `${kilobytes / 1024}MB` : `${kilobytes}KB`]
    })
  } catch {
    return []
  }
}

/** Without the agent the whole pod is lost, so the OOM killer takes any container first (proc_pid_oom_score_adj(5)). */
const AGENT_OOM_SCORE_ADJ = -999

export function protectFromOom(): void {
  try {
    writeFileSync('/proc/self/oom_score_adj', String(AGENT_OOM_SCORE_ADJ))
  } catch {
    // Without CAP_SYS_RESOURCE (outside a VM) the agent is as any process.
  }
}

/** The most memory a process held at once, exactly: the kernel keeps the high-water mark and can be told to forget it. */
import { readFile, writeFile } from 'node:fs/promises'

/** clear_refs of proc_pid_clear_refs(5): resets VmHWM to what is resident now. */
const RESET_PEAK = '5'

/** Forgets the peak so far; answers what is resident now, in MiB. */
export async function resetPeak(pid: number): Promise<number> {
  await writeFile(`/proc/${pid}/clear_refs`, RESET_PEAK)
  return statusMiB(pid, 'VmRSS')
}

/** The most that was resident at once since `resetPeak`, in MiB. */
export function peakMiB(pid: number): Promise<number> {
  return statusMiB(pid, 'VmHWM')
}

async function statusMiB(pid: number, field: 'VmRSS' | 'VmHWM'): Promise<number> {
  const KiB = new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]
  if (KiB === undefined) throw new Error(`/proc/${pid}/status has no ${field}`)
  return Math.round(Number(KiB) / 1024)
}

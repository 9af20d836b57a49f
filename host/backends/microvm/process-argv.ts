/** What runs between fork and the program itself: cgroups and network namespace first, so nothing escapes its limits. */
import { MARKER } from '#host/sandbox/processes.ts'
import type { Command } from './driver.ts'

export interface ProcessSetting {
  readonly sandboxId: string
  /** Unique within the sandbox */
  readonly name: string
  /** cgroup.procs files to join */
  readonly cgroupProcs: readonly string[]
  /** Network namespace to enter */
  readonly netnsPath: string | undefined
  /** Keeps root's capabilities. Without them it is still uid 0, but may do nothing that any user may not. */
  readonly privileged: boolean
}

/**
 * Every step is an exec, so the pid stays the same throughout. A failing write ends the process before the program
 * runs. The sandboxer itself is kept from the OOM killer; a guest as big as its pod must not be. XFSZ is ignored so that a size limit on a log loses output and not the process; guest memory never becomes a
 * core file.
 */
const SCRIPT = `trap '' XFSZ
ulimit -c 0
echo 0 2>/dev/null > /proc/self/oom_score_adj || :
while [ "$1" != -- ]; do echo $$ > "$1" || exit 126; shift; done
shift
exec "$@"`

export function processCommand(command: Command, { cgroupProcs, netnsPath, privileged }: ProcessSetting): Command {
  const netns = netnsPath === undefined ? [] : ['nsenter', `--net=${netnsPath}`]
  const confine = privileged ? [] : ['setpriv', '--bounding-set=-all', '--inh-caps=-all', '--no-new-privs', '--']
  return { file: '/bin/sh', args: ['-c', SCRIPT, 'sh', ...cgroupProcs, '--', ...netns, ...confine, command.file, ...command.args] }
}

/** Nothing of the sandboxer's own environment: it may hold secrets, and a helper needs none of it. */
export function processEnv({ sandboxId, name }: ProcessSetting): Record<string, string> {
  return { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LANG: 'C.UTF-8', [MARKER]: `${sandboxId}/${name}` }
}

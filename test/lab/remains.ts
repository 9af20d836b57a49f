/** What there is of sandboxes in the lab. */
import type { Lab } from './lab.ts'

/** pid, command and cgroup of everything that belongs to a sandbox, or to any when none is named. */
export async function processesIn(lab: Lab, id = ''): Promise<string[]> {
  const text = await lab.sh(`for p in /proc/[0-9]*; do
    tr '\\0' '\\n' <$p/environ 2>/dev/null | grep -q "^KUASAR_PROCESS=${id}" || continue
    echo "\${p#/proc/} $(cat $p/comm) $(cut -d: -f3 $p/cgroup)"
  done`)
  return lines(text)
}

/** What is there of any sandbox: processes, cgroups, files, mounts, links and addresses given out; nothing once all pods have been removed. */
export async function remainsIn(lab: Lab): Promise<string[]> {
  // The directory for records that could not be read is always there.
  const others = await lab.sh(`find /sys/fs/cgroup -name 'kuasar-*' -not -name '*.service'
    find /run/kuasar/sandboxes /run/kuasar/ledger -mindepth 1 -not -path /run/kuasar/ledger/unreadable
    grep /run/kuasar/ /proc/mounts || true
    find /run/netns /var/run/netns /var/lib/cni/networks -name 'cni-*' -o -path '*/networks/*/[0-9]*' 2>/dev/null || true
    ip -oneline link | grep -E 'kuasar|veth|cni-' || true`)
  return [...(await processesIn(lab)), ...lines(others)]
}

const lines = (text: string): string[] => text.split('\n').filter((line) => line !== '')

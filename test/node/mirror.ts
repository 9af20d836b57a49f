/** The Debian mirror this machine installs from, read from apt itself so that none is ever written down. */

import { execa } from 'execa'

/** Asks apt to print, for each package index it knows, who publishes it and where it is. */
const query = ['indextargets', '--format', '$(ORIGIN)|$(LABEL)|$(REPO_URI)', 'Created-By: Packages']

/** The mirror of Debian's main archive. Refreshes apt's lists when they are still empty. */
export async function debianMirror(): Promise<string> {
  const known = await findMirror()
  if (known !== undefined) return known
  await execa('apt-get', ['update'], { stdio: ['ignore', 'ignore', 'pipe'] })
  const found = await findMirror()
  if (found !== undefined) return found
  throw new Error(
    "no Debian archive among this machine's apt sources: `apt-get indextargets` names none with origin and label" +
      ' Debian; add a `deb` line for Debian main to /etc/apt/sources.list',
  )
}

async function findMirror(): Promise<string | undefined> {
  const { stdout } = await execa('apt-get', query)
  for (const line of stdout.split('\n')) {
    const [origin, label, uri] = line.split('|')
    if (origin === 'Debian' && label === 'Debian' && uri) return uri
  }
  return undefined
}

/** docs/containerd.md as a machine reads it: what it tells people to type and to write, word by word. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { checkout } from '#test/node/paths.ts'
import { checkoutInside } from './paths.ts'
import type { Lab } from './lab.ts'

/** Where the page is followed. */
export interface Place {
  /** A shell script; a failing exit status is an error. */
  sh(script: string): Promise<string>
  /** Makes its directory too. */
  writeFile(path: string, content: string): Promise<void>
}

/** The one code block of a language in a section. */
async function block(section: string, language: string): Promise<string> {
  const page = await readFile(join(checkout, 'docs/containerd.md'), 'utf8')
  const text = page.split(/^## /m).find((part) => part.startsWith(section)) ?? ''
  const [found, ...more] = [...text.matchAll(new RegExp(`\`\`\`${language}\\n([^]*?)\`\`\``, 'g'))].map((match) => match[1])
  if (found === undefined || more.length > 0) throw new Error(`docs/containerd.md has ${found === undefined ? 'no' : 'more than one'} block of ${language} in section ${section}`)
  return found
}

/** Section 1, but for what another machine builds: the checkout in that directory has been through it. */
export async function installAsDocumented(place: Place, directory: string): Promise<void> {
  await place.sh(`cd ${directory}\n${await block('1. ', 'sh')}`)
}

/** Section 2. */
export async function configureAsDocumented(place: Place): Promise<void> {
  await place.sh(await block('2. ', 'sh'))
  await place.writeFile('/etc/containerd/conf.d/kuasar.toml', await block('2. ', 'toml'))
}

/** Follows the page on the lab, up to the start of both services. */
export async function followAsDocumented(lab: Lab): Promise<void> {
  await installAsDocumented(lab, checkoutInside)
  await configureAsDocumented(lab)
  await lab.writeFile('/etc/systemd/system/kuasar-sandboxer.service', await block('3. ', 'ini'))
  await lab.sh('systemctl stop containerd && systemctl daemon-reload && systemctl enable kuasar-sandboxer && systemctl start containerd')
}

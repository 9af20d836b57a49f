/** docs/containerd.md as a machine reads it: what it tells people to type and to write, word by word. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { checkout } from '#test/node/paths.ts'
import { checkoutInside } from './paths.ts'
import type { Lab } from './lab.ts'

/** The page's code blocks of a language, in order. */
async function blocks(language: string): Promise<readonly string[]> {
  const text = await readFile(join(checkout, 'docs/containerd.md'), 'utf8')
  return [...text.matchAll(new RegExp(`\`\`\`${language}\\n([^]*?)\`\`\``, 'g'))].map((match) => match[1] ?? '')
}

async function onlyBlock(language: string): Promise<string> {
  const [block, ...more] = await blocks(language)
  if (block === undefined || more.length > 0) throw new Error(`docs/containerd.md has ${block === undefined ? 'no' : 'more than one'} block of ${language}`)
  return block
}

/**
 * Follows the page on the lab, up to the start of both services. Left out is what needs a registry (`make`): the checkout
 * that the lab mounts has been through it.
 */
export async function installAsDocumented(lab: Lab): Promise<void> {
  const script = (await onlyBlock('sh')).split('\n').filter((line) => !line.startsWith('make ')).join('\n')
  await lab.sh(`cd ${checkoutInside}\n${script}`)
  await lab.writeFile('/etc/containerd/conf.d/kuasar.toml', await onlyBlock('toml'))
  await lab.sh(`sed -i '1i imports = ["/etc/containerd/conf.d/*.toml"]' /etc/containerd/config.toml`)
  await lab.writeFile('/etc/systemd/system/kuasar-sandboxer.service', await onlyBlock('ini'))
  await lab.sh('systemctl stop containerd && systemctl daemon-reload && systemctl enable kuasar-sandboxer && systemctl start containerd')
}

/** Runs a program of the image's toolchain from the checkout: `node image/tool.ts gcc-12 ARGUMENT...`. */
import { execa } from 'execa'
import { inToolchain } from './toolchain.ts'

const { exitCode } = await execa('unshare', inToolchain(process.argv.slice(2)), { stdio: 'inherit', reject: false })
process.exitCode = exitCode ?? 1

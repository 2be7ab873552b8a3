import { existsSync } from 'node:fs';
import { AxeBuilder } from '@axe-core/playwright';
import { chromium, type Browser, type BrowserContext, type Page } from 'playwright-core';

export const chromiumPath = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);

export const openBrowser = (): Promise<Browser> => chromium.launch({ executablePath: chromiumPath!, args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'] });

export interface Look { width?: number; dark?: boolean; token?: string }

/** A tab that writes down everything that goes wrong in it: exceptions, errors on its console, what the policy forbade. */
export class Tab {
  readonly faults: string[] = [];

  private constructor(readonly page: Page, private readonly context: BrowserContext) {}

  static async open(browser: Browser, url: string, { width = 1280, dark = false, token }: Look = {}): Promise<Tab> {
    const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: dark ? 'dark' : 'light', baseURL: url });
    if (token) await context.addInitScript(`localStorage.setItem('reef-token', ${JSON.stringify(token)})`);
    const page = await context.newPage();
    const tab = new Tab(page, context);
    page.on('pageerror', (error) => tab.faults.push(error.message));
    page.on('console', (line) => { if (line.type() === 'error') tab.faults.push(line.text()); });
    await page.exposeFunction('reefForbidden', (what: string) => tab.faults.push(`policy: ${what}`));
    await page.addInitScript("addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) => reefForbidden(violatedDirective + ' ' + blockedURI))");
    return tab;
  }

  /**
   * Opens a page by its address (`again`: a second time, as the browser has kept it) and waits for what it should show.
   * @returns everything that is wrong with it: what it wrote down, an error in place of content, what cannot be read, named or reached by keys, and what does not fit
   */
  async visit(path: string, shows: string | RegExp, { again = false, usable = true }: { again?: boolean; usable?: boolean } = {}): Promise<string[]> {
    const { page, faults } = this;
    faults.length = 0;
    // Not a choice in a list, which is there before anything else is.
    const content = page.locator('main').getByText(shows).filter({ visible: true }).first();
    await page.goto(path);
    await content.waitFor({ timeout: 30_000 });
    if (again) {
      await page.reload();
      await content.waitFor({ timeout: 30_000 });
    }
    await page.locator('[aria-busy]').first().waitFor({ state: 'detached', timeout: 20_000 });
    const found = [...faults, ...(usable ? await this.unusable() : [])];
    const wide = await page.evaluate<number>('document.documentElement.scrollWidth - document.documentElement.clientWidth');
    if (wide > 0) found.push(`the page is ${wide} px wider than the window`);
    if ((await page.locator('h1').count()) !== 1) found.push('the page has no heading, or several');
    return found;
  }

  /** What axe calls more than minor. */
  async unusable(): Promise<string[]> {
    const { violations } = await new AxeBuilder({ page: this.page }).analyze();
    return violations.filter(({ impact }) => impact !== 'minor').flatMap(({ id, help, nodes }) => nodes.slice(0, 3).map(({ html, failureSummary }) => `${id}: ${help}: ${html.slice(0, 200)} ${failureSummary?.split('\n')[1]?.trim() ?? ''}`));
  }

  async close(): Promise<void> {
    await this.context.close();
  }
}

import { Component, type ReactNode } from 'react';

/** A page that cannot be drawn says so, and the others stay within reach. `of` names the page: another one is tried afresh. */
export class Broken extends Component<{ of: string; children: ReactNode }, { error: Error | null; of: string }> {
  override state = { error: null as Error | null, of: this.props.of };

  static getDerivedStateFromError(error: Error): { error: Error } {
    return { error };
  }

  static getDerivedStateFromProps(props: { of: string }, state: { of: string }): { error?: null; of: string } | null {
    return props.of === state.of ? null : { error: null, of: props.of };
  }

  override render(): ReactNode {
    const { error } = this.state;
    if (!error) return this.props.children;
    return (
      <>
        <h1>This page broke</h1>
        <p className="notice bad" role="alert">{error.message}</p>
        <p>The fleet is not touched by it. <button type="button" onClick={() => location.reload()}>Try again</button></p>
      </>
    );
  }
}

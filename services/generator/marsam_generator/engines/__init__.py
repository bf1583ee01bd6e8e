"""Who draws, behind one interface (`contract`): this process (`local`), or a Triton Inference Server (`triton`)."""

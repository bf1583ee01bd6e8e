"""What makers call the layers that diffusers names otherwise, as rules for `originals.renamed`.

A rule replaces a piece of a name; `#0`, `#1` … at an end are pieces of one tensor, `!` one whose halves change places.
"""

from collections.abc import Mapping

Rules = tuple[tuple[str, str], ...]

_QKV: Rules = (
    (r"\.to_q\.(\w+)$", r".qkv.\1#0"),
    (r"\.to_k\.(\w+)$", r".qkv.\1#1"),
    (r"\.to_v\.(\w+)$", r".qkv.\1#2"),
)
_OUT: Rules = (
    (r"^proj_out\.", "final_layer.linear."),
    (r"^norm_out\.linear\.(\w+)$", r"final_layer.adaLN_modulation.1.\1!"),
)

_FLUX_EMBEDDERS: Rules = (
    (r"^time_\w+_embed\.timestep_embedder\.linear_1\.", "time_in.in_layer."),
    (r"^time_\w+_embed\.timestep_embedder\.linear_2\.", "time_in.out_layer."),
    (r"^time_\w+_embed\.guidance_embedder\.linear_1\.", "guidance_in.in_layer."),
    (r"^time_\w+_embed\.guidance_embedder\.linear_2\.", "guidance_in.out_layer."),
    (r"^context_embedder\.", "txt_in."),
    (r"^x_embedder\.", "img_in."),
    *_OUT,
)
_FLUX_ATTENTION: Rules = (
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight$", r"single_blocks.\1.norm.query_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight$", r"single_blocks.\1.norm.key_norm.scale"),
    (r"^transformer_blocks\.", "double_blocks."),
    (r"\.attn\.add_([qkv])_proj\.", r".txt_attn.to_\1."),
    (r"\.attn\.norm_added_q\.weight$", ".txt_attn.norm.query_norm.scale"),
    (r"\.attn\.norm_added_k\.weight$", ".txt_attn.norm.key_norm.scale"),
    (r"\.attn\.to_add_out\.", ".txt_attn.proj."),
    (r"\.attn\.norm_q\.weight$", ".img_attn.norm.query_norm.scale"),
    (r"\.attn\.norm_k\.weight$", ".img_attn.norm.key_norm.scale"),
    (r"\.attn\.to_out\.0\.", ".img_attn.proj."),
    (r"\.attn\.", ".img_attn."),
    *_QKV,
)

DENOISERS: Mapping[str, Rules] = {
    "z_image": (
        (r"^all_final_layer\.2-1\.", "final_layer."),
        (r"^all_x_embedder\.2-1\.", "x_embedder."),
        (r"\.attention\.to_out\.0\.", ".attention.out."),
        (r"\.attention\.norm_([qk])\.", r".attention.\1_norm."),
        *_QKV,
    ),
    "qwen_image": (),
    "sd3": (
        (r"^pos_embed\.pos_embed$", "pos_embed"),
        (r"^pos_embed\.proj\.", "x_embedder.proj."),
        (r"^time_text_embed\.timestep_embedder\.", "t_embedder."),
        (r"^time_text_embed\.text_embedder\.", "y_embedder."),
        (r"_embedder\.linear_1\.", "_embedder.mlp.0."),
        (r"_embedder\.linear_2\.", "_embedder.mlp.2."),
        *_OUT,
        (
            r"^transformer_blocks\.2\.norm1_context\.linear\.(\w+)$",
            r"joint_blocks.2.context_block.adaLN_modulation.1.\1!",
        ),
        (r"^transformer_blocks\.", "joint_blocks."),
        (r"\.norm1\.linear\.", ".x_block.adaLN_modulation.1."),
        (r"\.norm1_context\.linear\.", ".context_block.adaLN_modulation.1."),
        (r"\.ff\.net\.0\.proj\.", ".x_block.mlp.fc1."),
        (r"\.ff\.net\.2\.", ".x_block.mlp.fc2."),
        (r"\.ff_context\.net\.0\.proj\.", ".context_block.mlp.fc1."),
        (r"\.ff_context\.net\.2\.", ".context_block.mlp.fc2."),
        (r"\.attn\.add_([qkv])_proj\.", r".context_block.attn.to_\1."),
        (r"\.attn\.norm_added_([qk])\.", r".context_block.attn.ln_\1."),
        (r"\.attn\.to_add_out\.", ".context_block.attn.proj."),
        (r"^(joint_blocks\.\d+)\.(attn2?)\.norm_([qk])\.", r"\1.x_block.\2.ln_\3."),
        (r"^(joint_blocks\.\d+)\.(attn2?)\.to_out\.0\.", r"\1.x_block.\2.proj."),
        (r"^(joint_blocks\.\d+)\.(attn2?)\.", r"\1.x_block.\2."),
        *_QKV,
    ),
    "flux": (
        (r"^time_text_embed\.text_embedder\.linear_1\.", "vector_in.in_layer."),
        (r"^time_text_embed\.text_embedder\.linear_2\.", "vector_in.out_layer."),
        *_FLUX_EMBEDDERS,
        (r"^single_transformer_blocks\.(\d+)\.norm\.linear\.", r"single_blocks.\1.modulation.lin."),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_q\.(\w+)$", r"single_blocks.\1.linear1.\2#0"),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_k\.(\w+)$", r"single_blocks.\1.linear1.\2#1"),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_v\.(\w+)$", r"single_blocks.\1.linear1.\2#2"),
        (r"^single_transformer_blocks\.(\d+)\.proj_mlp\.(\w+)$", r"single_blocks.\1.linear1.\2#3"),
        (r"^single_transformer_blocks\.(\d+)\.proj_out\.", r"single_blocks.\1.linear2."),
        (r"\.norm1\.linear\.", ".img_mod.lin."),
        (r"\.norm1_context\.linear\.", ".txt_mod.lin."),
        (r"\.ff\.net\.0\.proj\.", ".img_mlp.0."),
        (r"\.ff\.net\.2\.", ".img_mlp.2."),
        (r"\.ff_context\.net\.0\.proj\.", ".txt_mlp.0."),
        (r"\.ff_context\.net\.2\.", ".txt_mlp.2."),
        *_FLUX_ATTENTION,
    ),
    "flux2": (
        *_FLUX_EMBEDDERS,
        (r"^(\w+_stream_modulation\w*)\.linear\.", r"\1.lin."),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj\.", r"single_blocks.\1.linear1."),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_out\.", r"single_blocks.\1.linear2."),
        (r"\.ff\.linear_in\.", ".img_mlp.0."),
        (r"\.ff\.linear_out\.", ".img_mlp.2."),
        (r"\.ff_context\.linear_in\.", ".txt_mlp.0."),
        (r"\.ff_context\.linear_out\.", ".txt_mlp.2."),
        *_FLUX_ATTENTION,
    ),
    "sana": (
        (r"^patch_embed\.proj\.", "x_embedder.proj."),
        (r"^time_embed\.emb\.timestep_embedder\.linear_1\.", "t_embedder.mlp.0."),
        (r"^time_embed\.emb\.timestep_embedder\.linear_2\.", "t_embedder.mlp.2."),
        (r"^time_embed\.linear\.", "t_block.1."),
        (r"^caption_projection\.linear_([12])\.", r"y_embedder.y_proj.fc\1."),
        (r"^caption_norm\.", "attention_y_norm."),
        (r"^proj_out\.", "final_layer.linear."),
        (r"^scale_shift_table$", "final_layer.scale_shift_table"),
        (r"^transformer_blocks\.", "blocks."),
        (r"\.attn2\.to_q\.", ".cross_attn.q_linear."),
        (r"\.attn2\.to_k\.(\w+)$", r".cross_attn.kv_linear.\1#0"),
        (r"\.attn2\.to_v\.(\w+)$", r".cross_attn.kv_linear.\1#1"),
        (r"\.attn2\.to_out\.0\.", ".cross_attn.proj."),
        (r"\.attn1\.to_out\.0\.", ".attn.proj."),
        (r"\.attn1\.", ".attn."),
        (r"\.ff\.conv_inverted\.", ".mlp.inverted_conv.conv."),
        (r"\.ff\.conv_depth\.", ".mlp.depth_conv.conv."),
        (r"\.ff\.conv_point\.", ".mlp.point_conv.conv."),
        *_QKV,
    ),
}
"""Family → rules for its transformer."""

RESNET: Rules = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
UNET: Rules = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^add_embedding\.linear_1\.", "label_emb.0.0."),
    (r"^add_embedding\.linear_2\.", "label_emb.0.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
)
VAE: Rules = (
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up\.(\d+)\.resnets\.", r".up.\1.block."),
    (r"\.up\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.attn_1\.group_norm\.", ".attn_1.norm."),
    (r"\.attn_1\.to_([qkv])\.", r".attn_1.\1."),
    (r"\.attn_1\.to_out\.0\.", ".attn_1.proj_out."),
    (r"\.conv_norm_out\.", ".norm_out."),
)
OPEN_CLIP: Rules = (
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_projection\.weight$", "text_projection"),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.q_proj\.(\w+)$", r".attn.in_proj_\1#0"),
    (r"\.self_attn\.k_proj\.(\w+)$", r".attn.in_proj_\1#1"),
    (r"\.self_attn\.v_proj\.(\w+)$", r".attn.in_proj_\1#2"),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
)
